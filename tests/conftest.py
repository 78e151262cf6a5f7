"""Shared fixtures: everything runs offline; commands run in this process, or in one of their own."""

import gc
import io
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from launcher import Launcher, environment

# A busy machine is no failure of an example.
settings.register_profile("ordtool", deadline=None)
settings.load_profile("ordtool")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Tiny tensors: threads that wait for each other at every operation would only make the tests slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
THREADS = int(os.environ["OMP_NUM_THREADS"])
# Triton's kernels run here too, where there is no card to run them on. It looks when it is first imported.
if not (Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi")):
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).parent.parent


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without the garbage collector, which finds nothing among modules, and leave them out of its later rounds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give each worker its part of the files in one piece: few fixtures are built twice, and who ends first takes more."""
    if config.getvalue("dist") != "load":  # else it is what -n means by itself
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Take back a command's `--threads`: two workers of two threads each wait for each other on two cores."""
    yield
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != THREADS:
        torch.set_num_threads(THREADS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`run("parse", "a.txt", stdin=...)`: ordtool in a process of its own, in an empty folder.

    stdin and stdout are bytes; stderr is text.
    """

    def call(*args: object, stdin: bytes = b"", timeout: float = 120, env: dict[str, str] | None = None):
        done = subprocess.run(
            [sys.executable, "-m", "ordtool", *map(str, args)],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env=environment() | (env or {}),
            timeout=timeout,
            check=False,
        )
        done.stderr = done.stderr.decode()
        return done

    return call


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts processes that needn't import torch, with streams of their own: `launcher.start`, `launcher.run`."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture
def run_forked(launcher: Launcher, tmp_path: Path) -> Run:
    """As `run`, in a process that has torch and transformers already: for what needs a process, and not its start."""

    def call(*args: object, stdin: bytes = b"", timeout: float = 120):
        words = ["-m", "ordtool", *map(str, args)]
        done = launcher.run(words, stdin=stdin, cwd=tmp_path, timeout=timeout)
        done.stderr = done.stderr.decode()
        return done

    return call


@pytest.fixture
def run_in_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary
) -> Callable[..., SimpleNamespace]:
    """As `run`, with the same answer, in this process: for all that needs no process of its own.

    A process of its own takes seconds to load torch. Keep those for pipes, terminals, signals and what is loaded.
    """
    from ordtool.cli.app import main

    def call(*args: object, stdin: bytes = b"", env: dict[str, str] | None = None) -> SimpleNamespace:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name in [name for name in os.environ if name.startswith("ORDTOOL_")]:
                patch.delenv(name)
            for name, value in {"COLUMNS": "100", "NO_COLOR": "1", **(env or {})}.items():
                patch.setenv(name, value)
            capsysbinary.readouterr()
            with _pipe(stdin) as piped, pytest.raises(SystemExit) as end:
                patch.setattr(sys, "stdin", piped)
                main([str(arg) for arg in args])
        out, err = capsysbinary.readouterr()
        return SimpleNamespace(returncode=end.value.code, stdout=out, stderr=err.decode())

    return call


@contextmanager
def _pipe(data: bytes) -> Iterator[io.TextIOWrapper]:
    """The reading end of a pipe through which `data` comes: like a command's stdin it has a number and can't be sought."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), open(writing, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    with open(reading, encoding="utf-8", closefd=False) as file:
        yield file
    with suppress(OSError):  # the command may have closed it
        os.close(reading)
    writer.join()


def _failure(done, status: int) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert sum(line.startswith("error: ") for line in lines) == 1, done.stderr
    assert sum(line.startswith("hint: ") for line in lines) <= 1, done.stderr
    return done.stderr


@pytest.fixture
def fails_in_process(run_in_process: Callable[..., SimpleNamespace]) -> Callable[..., str]:
    """Run a command that must fail: one error line, a hint line at most, no traceback. Gives stderr."""

    def call(*args: object, status: int = 1, **kwargs) -> str:
        return _failure(run_in_process(*args, **kwargs), status)

    return call


@pytest.fixture
def fails_in_subprocess(run: Run) -> Callable[..., str]:
    """As `fails_in_process`, in a process of its own."""

    def call(*args: object, status: int = 1, **kwargs) -> str:
        return _failure(run(*args, **kwargs), status)

    return call


@pytest.fixture
def fails_forked(run_forked: Run) -> Callable[..., str]:
    """As `fails_in_subprocess`, by `run_forked`."""

    def call(*args: object, status: int = 1, **kwargs) -> str:
        return _failure(run_forked(*args, **kwargs), status)

    return call


PARSER_WORDS = "the a cat dog mat sat ran on in it she he said old red and not n't 's 我 们 喜 欢".split()


@pytest.fixture(scope="session")
def parsers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of tiny random parsers: `parsers()`, `parsers(seed=1)`, `parsers(token_kind="chars")`, `parsers(half=True)`.

    They are written without torch, as an independent account of what a parser's folder is.
    """
    built: dict[str, Path] = {}

    def folder(seed: int = 0, half: bool = False, layers: int = 3, **tokenizer: object) -> Path:
        key = repr((seed, half, layers, sorted(tokenizer.items())))
        if key not in built:
            built[key] = tmp_path_factory.mktemp("parser")
            _build_parser(built[key], seed, half, layers, tokenizer)
        return built[key]

    return folder


def _build_parser(folder: Path, seed: int, half: bool, layers: int, tokenizer: dict[str, object]) -> None:
    import json

    import numpy as np
    from safetensors.numpy import save_file

    words = ["<eos>", "<unk>", "<unk:Aa>", "<unk:ing>", *PARSER_WORDS]
    chunk, sizes = 4, [12, *[20] * (layers - 1), 12]
    generator = np.random.default_rng(seed)
    tensors = {"model.embed_tokens.weight": generator.normal(0, 1, (len(words), sizes[0]))}
    for k, (inputs, size) in enumerate(zip(sizes, sizes[1:], strict=False)):
        gates = 4 * size + 2 * size // chunk
        shapes = {
            "weight_ih": (gates, inputs),
            "weight_hh": (gates, size),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
        }
        tensors |= {
            f"model.layers.{k}.{name}": generator.normal(0, 0.6, shape) for name, shape in shapes.items()
        }
    dtype = np.float16 if half else np.float32
    save_file({name: tensor.astype(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {
        "model_type": "onlstm", "architectures": ["OnlstmForCausalLM"], "vocab_size": len(words), "embedding_size": 12,
        "hidden_size": 20, "num_hidden_layers": layers, "chunk_size": chunk, "parse_layer": 2, "parse_builder": "paper",
        "parse_layer_weights": None, "eos_token_id": 0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    options = {"lowercase": True, "digits": True, "drop_punctuation": True, "token_kind": "words"} | tokenizer
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "OnlstmTokenizer", **options})
    )
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words))


WORDS = (
    "the a cat dog bird river tree sat ran saw sang on under near red small old and then it was not".split()
)


@pytest.fixture(scope="session")
def writers(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny random models that write: `writers("llama")`, `gpt2`, `t5`, `bart`, `marian`, `unilm`, `chat`.

    Their weights are large, so that texts vary; `flat` has small ones, so that near ties abound.
    """
    built: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in built:
            built[kind] = tmp_path_factory.mktemp(kind)
            _build_writer(kind, built[kind])
        return built[kind]

    return folder


def _small(std: float, **options: object):
    from ordtool.lm.model import OrdtoolLMConfig

    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    return OrdtoolLMConfig(**shape, max_position_embeddings=64, initializer_range=std, **options)


def _unilm(std: float, **options: object):
    from ordtool.seq2seq.unilm import UnilmConfig

    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    shape |= {"max_position_embeddings": 64, "initializer_range": std, "model_type": "bert"}
    return UnilmConfig(encoder={**shape, **options}, eos_token_id=2, pad_token_id=0)


def _build_writer(kind: str, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = [" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(
            vocab_size=331,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    if kind == "chat":
        fast.chat_template = (
            "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant:{% endif %}"
        )
    fast.save_pretrained(folder)
    ids = {"vocab_size": len(fast), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    std = 0.02 if kind == "flat" else 0.4
    llama = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    llama |= {
        "max_position_embeddings": 64,
        "initializer_range": std,
        "head_dim": 8,
        "num_key_value_heads": 3,
    }
    config = {
        "llama": lambda: transformers.LlamaConfig(**llama, **ids),
        "chat": lambda: transformers.LlamaConfig(**llama, **ids),
        "flat": lambda: transformers.LlamaConfig(**llama, **ids),
        "gpt2": lambda: transformers.GPT2Config(
            n_embd=24, n_layer=2, n_head=3, n_positions=64, initializer_range=std, **ids
        ),
        "t5": lambda: transformers.T5Config(
            d_model=24, d_kv=8, d_ff=40, num_layers=2, num_heads=3, decoder_start_token_id=0, **ids
        ),
        "bart": lambda: transformers.BartConfig(
            d_model=24, encoder_layers=1, decoder_layers=2, encoder_attention_heads=3, decoder_attention_heads=3,
            encoder_ffn_dim=40, decoder_ffn_dim=40, max_position_embeddings=64, init_std=std,
            decoder_start_token_id=2, forced_bos_token_id=None, forced_eos_token_id=None, **ids,
        ),
        "marian": lambda: transformers.MarianConfig(
            d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=3, decoder_attention_heads=2,
            encoder_ffn_dim=40, decoder_ffn_dim=32, max_position_embeddings=64, init_std=std,
            decoder_start_token_id=0, forced_eos_token_id=None, **ids,
        ),
        "own": lambda: _small(std, **ids),
        "prefix": lambda: _small(std, objective="prefix", **ids),
        "unilm": lambda: _unilm(std, **ids),
        "permutation": lambda: _small(std, objective="permutation", talking_heads=True, logn=True, **ids),
    }[kind]()  # fmt: skip
    torch.manual_seed(7)
    model = {
        "t5": "T5ForConditionalGeneration",
        "bart": "BartForConditionalGeneration",
        "marian": "MarianMTModel",
        "gpt2": "GPT2LMHeadModel",
    }
    if config.model_type.startswith("ordtool"):
        made = transformers.AutoModelForCausalLM.from_config(config)
    else:
        made = getattr(transformers, model.get(kind, "LlamaForCausalLM"))(config)
    if kind == "t5":
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    made.generation_config.eos_token_id = 2
    made.save_pretrained(folder)


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny random encoders that read `WORDS`: `encoders("bert")`, `roberta`, `distilbert`, `classifier`,
    and `plain-bert`, which has BERT's own tokenizer.

    They take 40 tokens; `roberta` has the position offset of its kind.
    """
    built: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in built:
            built[kind] = tmp_path_factory.mktemp(kind)
            _build_encoder(kind, built[kind])
        return built[kind]

    return folder


def _build_encoder(kind: str, folder: Path) -> None:
    import torch
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [f"{mark}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*special, *WORDS, *letters]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name[1:-1].lower()}_token": name for name in special}
    if kind == "plain-bert":
        transformers.BertTokenizer(vocab=vocabulary, model_max_length=40).save_pretrained(folder)
        kind = "bert"
    else:
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, model_max_length=40, **names
        ).save_pretrained(folder)
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
    common = {"vocab_size": len(vocabulary), "pad_token_id": 0, "max_position_embeddings": 40}
    config = {
        "bert": lambda: transformers.BertConfig(**common, **shape),
        "classifier": lambda: transformers.BertConfig(**common, **shape, num_labels=2),
        "roberta": lambda: transformers.RobertaConfig(**{**common, "max_position_embeddings": 41}, **shape),
        "distilbert": lambda: transformers.DistilBertConfig(
            **common, dim=24, hidden_dim=40, n_layers=2, n_heads=3
        ),
    }[kind]()
    torch.manual_seed(11)
    classes = {
        "bert": "BertModel",
        "classifier": "BertForSequenceClassification",
        "roberta": "RobertaModel",
        "distilbert": "DistilBertModel",
    }
    model = getattr(transformers, classes[kind])(config)
    for parameter in model.parameters():  # the usual start is so small that every text looks alike
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def every_command() -> dict[str, object]:
    """The commands by their names, such as `train ladder`."""
    import typer
    from typer.main import get_command

    from ordtool.cli.app import app
    from ordtool.cli.whiten import merge_app

    def walk(command, path):
        if not hasattr(command, "list_commands"):
            return {" ".join(path): command}
        context = typer.Context(command)
        found = {}
        for name in command.list_commands(context):
            found |= walk(command.get_command(context, name), (*path, name))
        return found

    return walk(get_command(app), ()) | {"whiten merge": get_command(merge_app)}


class Killed(BaseException):
    """Stands for a kill: nobody catches it."""


@pytest.fixture
def killed_while_writing(monkeypatch):
    """`killed_while_writing("checkpoint-4", train)`: a run that ends between two files of a checkpoint.

    What the run would tidy up at an error stays, as after a kill.
    """

    import torch

    def call(checkpoint, train):
        save = torch.save

        def saving(value, path, *arguments, **options):
            if str(path).endswith(f"{checkpoint}/optimizer.pt"):
                Path(path).write_bytes(b"half")
                raise Killed
            save(value, path, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(torch, "save", saving)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            with pytest.raises(Killed):
                train()

    return call


@pytest.fixture(scope="session")
def kills_itself() -> str:
    """Return a program that is ordtool, and kills itself once 90 records of its output are known to be there."""
    return """
import os, signal, sys
from ordtool.cli.app import main
from ordtool.io.resumable import Lines

save = Lines.save

def save_and_die(self, done, *more):
    save(self, done, *more)
    if done >= 90:
        self.sync()
        os.kill(os.getpid(), signal.SIGKILL)

Lines.save = save_and_die
main(sys.argv[1:])
"""
