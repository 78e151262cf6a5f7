"""Start commands of ordtool in several ranks, as torchrun does, in a few processes that share one import of torch.

    python launch.py '[{"ranks": 2, "argv": ["train", "parser", ...]}, ...]'

Runs stand one after the other. Of each, a line of JSON tells the exit statuses of its ranks, its seconds, and their CPU
seconds. Nobody ends the ranks that are left when one dies, so that it shows whether they end by themselves. `kill` names a
rank that gets SIGKILL when a file, `when`, is there.
"""

import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

MODULES = (
    "torch._dynamo",  # which optimisers import at their first step, in a second or two
    "torch.distributed",
    "accelerate",
    "numba",
    "pydantic",
    "ordtool.cli.app",
    "ordtool.cli.train_ladder",
    "ordtool.cli.train_lm",
    "ordtool.cli.train_parser",
    "ordtool.cli.train_seq2seq",
    "ordtool.cli.train_spans",
    "ordtool.lm.model",
    "ordtool.lm.training",
    "ordtool.parsing.spans.training",
    "ordtool.parsing.training.trainer",
    "ordtool.seq2seq.training",
    "ordtool.seq2seq.models",
    "ordtool.seq2seq.unilm",
    "ordtool.tuning.training",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(rank: int, size: int, port: int, argv: list[str], log: str | None) -> int:
    """Fork a rank; give its process number."""
    process = os.fork()
    if process:
        return process
    status = 99
    try:
        if size > 1:
            os.environ |= {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
        if log:
            for number, name in ((1, f"{log}.{rank}.out"), (2, f"{log}.{rank}")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        import faulthandler

        faulthandler.dump_traceback_later(float(os.environ.get("ORDTOOL_TEST_PATIENCE", "240")), exit=True)
        from ordtool.cli.app import main

        main(argv)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(ranks: int, argv: list[str], kill: int | None = None, when: str = "", log: str | None = None) -> dict:
    started, port = time.monotonic(), free_port()
    processes = [start(rank, ranks, port, argv, log) for rank in range(ranks)]
    if kill is not None:
        while not Path(when).exists():
            time.sleep(0.01)
        os.kill(processes[kill], signal.SIGKILL)
    ended = [os.wait4(process, 0) for process in processes]
    return {
        "statuses": [os.waitstatus_to_exitcode(status) for _, status, _ in ended],
        "seconds": round(time.monotonic() - started, 2),
        "cpu": [round(usage.ru_utime + usage.ru_stime, 2) for _, _, usage in ended],
    }


if __name__ == "__main__":
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    import torch

    for name in MODULES:  # once, and not in every rank
        with suppress(ImportError):  # numba is an extra
            import_module(name)
    import transformers

    for name in ("Trainer", "TrainingArguments", "BertModel", "AutoModel", "AutoTokenizer", "BertTokenizer"):
        getattr(transformers, name)  # it imports what is asked for
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        sys.stdout.write(json.dumps(run(**job)) + "\n")
        sys.stdout.flush()
