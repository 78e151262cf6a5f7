"""A model's own code is never run, whatever its folder says and whatever waits on stdin."""

import ast
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
ANSWER = b"y\nhello\n"
AUTO_MAP = {
    "AutoConfig": "configuration_x.XConfig",
    "AutoModel": "modeling_x.XModel",
    "AutoModelForCausalLM": "modeling_x.XModel",
    "AutoModelForSeq2SeqLM": "modeling_x.XModel",
    "AutoModelForSequenceClassification": "modeling_x.XModel",
    "AutoTokenizer": ["tokenization_x.XTokenizer", "tokenization_x.XTokenizer"],
}

# ---------------------------------------------------------------- what the code says

# Functions that read a model or an array, and what each must be given.
SAFE = {
    "from_pretrained": {"trust_remote_code": False},
    "from_config": {"trust_remote_code": False},
    "SentenceTransformer": {"trust_remote_code": False},
    "CrossEncoder": {"trust_remote_code": False},
    "pipeline": {"trust_remote_code": False},
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
    "snapshot_download": {"allow_patterns": ...},
}
# Functions that run, or unpickle, what they read.
NEVER = {
    "exec",
    "eval",
    "torch.hub.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "get_class_from_dynamic_module",
    "get_cached_module_file",
    "hf_hub_download",
    "load_dataset",
    "read_pickle",
    "StaticModel.from_pretrained",
}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
# Tables of numbers, not of a model's files.
OTHERS = {"nn.Embedding.from_pretrained", "torch.nn.Embedding.from_pretrained"}


def source_files() -> list[Path]:
    files = [*(ROOT / "ordtool").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    return sorted([*files, *(ROOT / "docs").rglob("*.py")])


def unsafe_calls(source: str) -> list[str]:
    """Give the calls of a source that load without the safe argument, and its imports of pickles."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            )
            found += [name for name in names if name.partition(".")[0] in PICKLES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        short = name.rpartition(".")[2]
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if name in OTHERS:
            continue
        if name in NEVER or (short in NEVER and short not in {"exec", "eval"}):
            found.append(name)
        for argument, value in SAFE.get(name, SAFE.get(short, {})).items():
            constant = given.get(argument)
            said = isinstance(constant, ast.Constant) and constant.value is value
            if constant is None or not (said or value is ...):
                found.append(f"{name} without {argument}={value}")
        # Weights, as `dtype` tells them from tokenizers and configurations.
        if (
            short == "from_pretrained"
            and "dtype" in given
            and not {"use_safetensors", "gguf_file"} & set(given)
        ):
            found.append(f"{name} without use_safetensors=True")
    return found


def test_every_loading_call_has_its_safe_argument() -> None:
    found = {str(path.relative_to(ROOT)): unsafe_calls(path.read_text()) for path in source_files()}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "AutoModel.from_pretrained(folder)",
        "AutoModel.from_pretrained(folder, **options)",
        "auto.from_pretrained(folder, trust_remote_code=trusted)",
        "AutoModel.from_pretrained(folder, dtype=dtype, trust_remote_code=False)",
        "AutoModel.from_config(config)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, mmap_mode='r')",
        "SentenceTransformer(folder)",
        "snapshot_download(name)",
        "import pickle",
        "from joblib import load",
        "exec(text)",
        "torch.hub.load(name)",
    ],
)
def test_the_reading_of_the_code_finds_what_it_should(line: str) -> None:
    assert unsafe_calls(line)


# ---------------------------------------------------------------- what the commands do


class Attacked:
    """A folder with code of its own that leaves a mark when it is run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = folder.parent / f"{folder.name}.ran"
        code = f"from pathlib import Path\nPath({str(self.mark)!r}).write_text('run')\n"
        folder.mkdir(exist_ok=True)
        for name in ("configuration_x", "modeling_x", "tokenization_x"):
            (folder / f"{name}.py").write_text(
                code + "class XConfig: pass\nclass XModel: pass\nclass XTokenizer: pass\n"
            )

    def change(self, name: str, **changes: object) -> None:
        file = self.folder / name
        found = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps({**found, **changes}))


@pytest.fixture
def attacked(tmp_path: Path) -> Callable[..., Attacked]:
    """Copy a folder and give it code of its own."""

    def make(source: Path, name: str = "model") -> Attacked:
        shutil.copytree(source, tmp_path / name)
        return Attacked(tmp_path / name)

    return make


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """Run a command in this process, with an answer to a question waiting on stdin."""
    from ordtool.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a.txt").write_text("the cat sat\nthe dog ran\n")
    (tmp_path / "b.txt").write_text("the bird sang\na dog sat\n")
    (tmp_path / "lines.txt").write_text("the cat sat on the dog\n" * 200)
    pairs = [{"source": "the cat", "target": "a dog"}, {"source": "a bird", "target": "the tree"}] * 10
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    labelled = [{"text": "the cat sat", "label": "cat"}, {"text": "the dog ran", "label": "dog"}] * 10
    (tmp_path / "labelled.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    scored = [f"the cat sat\tthe dog ran {number}\t{number % 5}\n" for number in range(8)]
    (tmp_path / "scored.tsv").write_text("".join(scored))

    def call(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(ANSWER)))
        with pytest.raises(SystemExit) as end:
            main([str(arg) for arg in argv])
        out, err = capfd.readouterr()
        assert sys.stdin.buffer.read() == ANSWER, "stdin was read"
        return int(end.value.code or 0), out, err

    return call


COMMANDS = {
    "embed": ["embed", "-m", "model", "a.txt"],
    "embed --layers": ["embed", "-m", "model", "--layers", "all", "a.txt", "-o", "layers"],
    "embed --whiten": ["embed", "-m", "model", "--whiten", "a.txt", "-o", "w.npy"],
    "generate": ["generate", "-m", "model", "a.txt"],
    "extrapolate": ["extrapolate", "-m", "model", "lines.txt"],
    "predict": ["predict", "-m", "model", "a.txt"],
    "parse": ["parse", "-m", "model", "a.txt"],
    "hsic --embed": ["hsic", "a.txt", "b.txt", "--embed", "model"],
    "score similarity": ["score", "similarity", "scored.tsv", "-m", "model"],
    "train ladder": ["train", "ladder", "labelled.jsonl", "-m", "model", "-o", "out"],
    "train ladder --task lm": ["train", "ladder", "lines.txt", "--task", "lm", "-m", "model", "-o", "out"],
    "train ladder --task seq2seq": [
        "train", "ladder", "pairs.jsonl", "--task", "seq2seq", "-m", "model", "-o", "out",
    ],
    "train seq2seq": ["train", "seq2seq", "pairs.jsonl", "-m", "model", "-o", "out"],
    "train lm --tokenizer": ["train", "lm", "lines.txt", "--tokenizer", "model", "-o", "out"],
    "train bottleneck --embed": ["train", "bottleneck", "labelled.jsonl", "--embed", "model", "-o", "out"],
}  # fmt: skip
ARCHITECTURES = {"predict": "XForSequenceClassification", "embed": "XModel"}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_of_unknown_kind_is_refused(command: str, attacked, encoders, here) -> None:
    bad = attacked(encoders("bert"))
    architecture = ARCHITECTURES.get(command, "XForCausalLM")
    bad.change("config.json", model_type="x_unknown", architectures=[architecture], auto_map=AUTO_MAP)
    bad.change("tokenizer_config.json", tokenizer_class="XTokenizer", auto_map=AUTO_MAP)
    status, out, err = here(*COMMANDS[command])
    assert not bad.mark.exists(), "the model's code was run"
    assert (status, out) == (1, ""), err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1
    if command != "parse":
        assert "code of its own" in err or "never run" in err, err
    assert not Path("out").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_code_beside_a_model_of_a_known_kind_is_left_alone(
    command: str, attacked, encoders, writers, here
) -> None:
    kinds = {"generate": writers("llama"), "extrapolate": writers("llama"), "predict": encoders("classifier")}
    kinds["train ladder --task lm"] = writers("llama")
    kinds["train ladder --task seq2seq"] = writers("t5")
    bad = attacked(kinds.get(command, encoders("bert")))
    bad.change("config.json", auto_map=AUTO_MAP)
    bad.change("tokenizer_config.json", auto_map=AUTO_MAP)
    argv = COMMANDS[command]
    if argv[0] == "train":
        argv = [*argv, *FEW[argv[1]]]
    status, _, err = here(*argv)
    assert not bad.mark.exists(), "the model's code was run"
    assert status in {0, 1}, err
    assert "Traceback" not in err


FEW = {
    "ladder": ["--max-steps", "1", "--batch-size", "2"],
    "seq2seq": ["--epochs", "0.1", "--batch-size", "2"],
    "lm": [
        "--steps",
        "1",
        "--context",
        "16",
        "--layers",
        "1",
        "--hidden",
        "16",
        "--heads",
        "2",
        "--batch-size",
        "2",
    ],
    "bottleneck": ["--layers", "4", "--epochs", "1", "--runs", "1", "--methods", "hsic", "--holdout", "0.3"],
}


@pytest.mark.parametrize("command", ["embed", "hsic --embed", "score similarity"])
def test_a_tokenizer_of_its_own_is_refused(command: str, attacked, encoders, here) -> None:
    bad = attacked(encoders("distilbert"))
    (bad.folder / "tokenizer.json").unlink()
    bad.change("tokenizer_config.json", tokenizer_class="XTokenizer", auto_map=AUTO_MAP)
    status, out, err = here(*COMMANDS[command])
    assert not bad.mark.exists()
    assert (status, out) == (1, ""), err
    assert err.count("error: ") == 1


@pytest.mark.parametrize("command", ["embed", "hsic --embed", "score similarity", "train bottleneck --embed"])
def test_a_module_of_its_own_is_refused(command: str, attacked, encoders, here) -> None:
    bad = attacked(encoders("bert"))
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "", "type": "modeling_x.XModel"},
    ]
    (bad.folder / "modules.json").write_text(json.dumps(modules))
    status, out, err = here(*COMMANDS[command])
    assert not bad.mark.exists()
    assert (status, out) == (1, ""), err
    assert err.count("error: ") == 1


def test_a_question_is_not_answered_from_a_pipe(run_forked, attacked, encoders) -> None:
    bad = attacked(encoders("bert"))
    bad.change("config.json", model_type="x_unknown", auto_map=AUTO_MAP)
    done = run_forked("embed", "-m", bad.folder, stdin=ANSWER)
    assert not bad.mark.exists()
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count("error: ") == 1


def test_a_model_inside_a_model_is_left_alone(attacked, writers, here) -> None:
    from ordtool.generation.loading import load_backend

    bad = attacked(writers("unilm"))
    config = json.loads((bad.folder / "config.json").read_text())
    bad.change("config.json", auto_map=AUTO_MAP, encoder={**config["encoder"], "auto_map": AUTO_MAP})
    load_backend(bad.folder, torch.device("cpu"), torch.float32)
    bad.change("config.json", encoder={**config["encoder"], "model_type": "x", "auto_map": AUTO_MAP})
    status, out, err = here("generate", "-m", "model", "a.txt")
    assert (status, out) == (1, ""), err
    assert not bad.mark.exists()


def test_generating_in_a_way_of_its_own_is_left_alone(attacked, writers, here) -> None:
    bad = attacked(writers("gpt2"))
    (bad.folder / "custom_generate").mkdir()
    code = (bad.folder / "modeling_x.py").read_text() + "def generate(*a, **k): pass\n"
    (bad.folder / "custom_generate" / "generate.py").write_text(code)
    status, _, err = here("generate", "-m", "model", "a.txt")
    assert status == 0, err
    assert not bad.mark.exists()
