"""Processes that needn't import torch and transformers, because they are forked from one that has.

    python launcher.py SOCKET

A new interpreter takes seconds to import them. Tests for which a process matters, and not its first seconds, start theirs
with the fixtures `launcher` and `run_forked`: `Launcher` is their side of the socket, the program below is the other one.
Each process imports ordtool's own modules anew, and has streams, a folder, an environment, random numbers and an end of its
own. What all share is the hashing of strings: a test of two processes that agree needs one that isn't of here.
"""

import atexit
import contextlib
import gc
import json
import os
import pty
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from importlib import import_module

LIBRARIES = (
    "numba",
    "numpy",
    "safetensors.torch",
    "scipy.special",
    "tokenizers",
    "torch._dynamo",  # which optimisers import at their first step
    "transformers.generation",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "typer",
)


def environment() -> dict[str, str]:
    """What a command's process finds in its environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ORDTOOL_")}
    return kept | {"HF_HUB_OFFLINE": "1", "COLUMNS": "100", "NO_COLOR": "1"}


class Process:
    """A process of the launcher's: its number, and its status once it has ended."""

    def __init__(self, launcher: "Launcher", pid: int) -> None:
        self._launcher, self.pid = launcher, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the status, minus the number of the signal that ended it; None if it runs on."""
        if self.returncode is None:
            self.returncode = self._launcher.ask({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        if self.returncode is None:
            try:
                self.returncode = self._launcher.ask({"wait": self.pid}, timeout)
            except TimeoutError:
                self.send_signal(signal.SIGKILL)
                raise
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class Launcher:
    """Starts processes; one of them is waited for at a time."""

    def __init__(self) -> None:
        self._control, other = socket.socketpair()
        command = [sys.executable, __file__, str(other.fileno())]
        self._server = subprocess.Popen(command, pass_fds=[other.fileno()], stdin=subprocess.DEVNULL)
        other.close()

    def ask(self, question: dict, timeout: float = 300, streams: tuple[int, ...] = ()) -> int | None:
        self._control.settimeout(timeout)
        socket.send_fds(self._control, [json.dumps(question).encode() + b"\n"], streams)
        answer = self._control.recv(100)
        assert answer, "the launcher has ended"
        return json.loads(answer)

    def start(self, words, *, stdin: int, stdout: int, stderr: int, cwd, **env: str) -> Process:
        """Begin what stands behind `python`: `-m MODULE ARGUMENT...` or `-c CODE ARGUMENT...`.

        `env` changes what libraries read when they are used; what they read when they are imported, they have read.
        """
        question = {"words": [str(word) for word in words], "cwd": str(cwd), "env": environment() | env}
        pid = self.ask(question, streams=(stdin, stdout, stderr))
        assert pid is not None
        return Process(self, pid)

    def run(self, words, *, cwd, stdin: bytes = b"", timeout: float = 120) -> subprocess.CompletedProcess:
        """As `subprocess.run`, with pipes at all three streams."""
        (read_in, write_in), (read_out, write_out), (read_err, write_err) = (os.pipe() for _ in range(3))
        process = self.start(words, stdin=read_in, stdout=write_out, stderr=write_err, cwd=cwd)
        for number in (read_in, write_out, write_err):
            os.close(number)
        found: dict[int, bytes] = {}

        def write() -> None:
            with contextlib.suppress(BrokenPipeError), open(write_in, "wb") as file:
                file.write(stdin)

        def read(number: int) -> None:
            with open(number, "rb") as file:
                found[number] = file.read()

        threads = [threading.Thread(target=write, daemon=True)]
        threads += [
            threading.Thread(target=read, args=[number], daemon=True) for number in (read_out, read_err)
        ]
        for thread in threads:
            thread.start()
        status = process.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return subprocess.CompletedProcess(words, status, found[read_out], found[read_err])

    def run_on_terminal(self, words, *, cwd, **env: str) -> tuple[str, int]:
        """Return what a process prints whose three streams are a terminal, and its status."""
        master, slave = pty.openpty()
        process = self.start(
            words, stdin=slave, stdout=slave, stderr=slave, cwd=cwd, TERM="xterm-256color", **env
        )
        os.close(slave)
        printed = bytearray()
        with contextlib.suppress(OSError):  # the terminal is gone when the process is
            while piece := os.read(master, 65536):
                printed.extend(piece)
        os.close(master)
        return printed.decode().replace("\r\n", "\n"), process.wait()

    def run_before_head(self, words, *, cwd) -> tuple[bytes, int, str]:
        """Return the first line of a process whose reader then leaves, as `| head -n 1` does; its status and stderr."""
        read_out, write_out = os.pipe()
        with open(os.devnull) as nothing, tempfile.TemporaryFile() as errors:
            process = self.start(
                words, stdin=nothing.fileno(), stdout=write_out, stderr=errors.fileno(), cwd=cwd
            )
            os.close(write_out)
            with open(read_out, "rb") as file:
                line = file.readline()
            status = process.wait()
            errors.seek(0)
            return line, status, errors.read().decode()

    def close(self) -> None:
        self._control.close()
        self._server.wait()


def serve(control: socket.socket) -> dict | None:
    """Answer questions until the other side leaves; in a new process, return what it was started for."""
    while True:
        question, streams, *_ = socket.recv_fds(control, 1 << 16, 3)
        while question and not question.endswith(b"\n"):
            question += control.recv(1 << 16)
        if not question:
            return None
        asked = json.loads(question)
        if "words" in asked:
            answer: int | None = os.fork()
            if not answer:
                control.close()
                for place, number in enumerate(streams):
                    os.dup2(number, place)
            for number in streams:
                os.close(number)
            if not answer:
                return asked
        else:
            ended, status = os.waitpid(
                asked.get("wait") or asked["poll"], 0 if "wait" in asked else os.WNOHANG
            )
            answer = os.waitstatus_to_exitcode(status) if ended else None
        control.sendall(json.dumps(answer).encode())


def become(job: dict) -> None:
    """Run a program as an interpreter does that has just been started, and end as it does.

    But for the half second in which it would take all its modules apart.
    """
    status: object = 0
    try:
        run_program(job)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        sys.stderr.write(status + "\n")
        status = 1
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except OSError:
        status = 120
    os._exit(int(status or 0))


def run_program(job: dict) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    random.seed()
    import_module("numpy").random.seed()
    kind, what, *arguments = job["words"]
    sys.argv, sys.path[0] = [kind, *arguments], ""
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    gc.disable()
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):  # some are extras
            import_module(name)
    gc.enable()
    gc.freeze()
    job = serve(socket.socket(fileno=int(sys.argv[1])))
    if job is not None:
        become(job)
