"""The rules of the house that can be read off the source."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ordtool"
ROOT = PACKAGE.parent
SUBJECTS = {"parsing", "embedding", "independence", "lm", "seq2seq", "generation", "extrapolation", "tuning"}
BASE = {
    "arguments",
    "batching",
    "correlation",
    "distributed",
    "errors",
    "progress",
    "runtime",
    "parallel",
    "memory",
    "plotting",
    "io",
    "sharding",
}
# What each part may import, beside itself.
ALLOWED = {
    **{subject: BASE | {"models"} for subject in SUBJECTS},
    # It labels with what the others train.
    "prediction": BASE | {"models", "tuning", "independence", "embedding"},
    "models": BASE,
    "arguments": {"errors"},
    "batching": {"errors"},
    "io": {"arguments", "distributed", "errors", "progress", "runtime"},
    "sharding": {"batching", "errors", "io", "parallel", "progress", "runtime"},
    "distributed": {"errors", "progress"},
    "runtime": {"distributed", "errors"},
    "correlation": set(),
    "parallel": {"errors"},
    "memory": set(),
    "plotting": {"errors", "runtime"},
    "trainer": {"distributed", "errors", "io", "progress"},
    "progress": set(),
    "errors": set(),
    "table_layout": set(),
    "console": {"errors", "progress", "io", "table_layout"},
    "cli": {*SUBJECTS, *BASE, "prediction", "models", "console", "table_layout"},
}
# The small Transformer's parts serve other subjects; its masks make an encoder write, and both write in `generation`.
for subject, others in {
    "parsing": {"lm"},
    "extrapolation": {"lm"},
    "seq2seq": {"lm", "trainer"},
    "lm": {"trainer"},
    "generation": {"lm", "seq2seq"},
}.items():
    ALLOWED[subject] = ALLOWED[subject] | others


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module.split(".")[0] == "ordtool":
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_one_way():
    wrong = []
    for path in sources():
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name in imports_of(path):
            root, _, rest = name.partition(".")
            target = rest.split(".")[0]
            allowed = (
                root != "click"  # Typer brings its own
                and (root != "typer" or part == "cli")
                and (root != "rich" or part in {"cli", "console"})
                and (
                    root != "ordtool"
                    or not rest
                    or part not in ALLOWED
                    or target in ALLOWED[part] | {part, "__version__"}
                )
            )
            if not allowed:
                wrong.append(f"{path.relative_to(ROOT)} must not import {name}")
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other():
    """Inside subjects too, and where an import stands in a function or serves types alone."""
    names = {module_name(path) for path in sources()}
    graph = {
        module_name(path): {name for name in imports_of(path) if name in names} - {module_name(path)}
        for path in sources()
    }
    # `ordtool` itself gives its names lazily, so that what it names may import it.
    del graph["ordtool"]
    graphlib.TopologicalSorter({name: found - {"ordtool"} for name, found in graph.items()}).prepare()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def is_door(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A function whose options Typer reads, which are its parameters."""
    return "Annotated" in ast.unparse(function.args)


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A Triton kernel, whose parameters are the buffers and numbers of a launch."""
    return any("triton.jit" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_functions_are_short_and_take_few_things():
    wrong = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_door(node):
                continue
            if is_kernel(node):
                continue
            parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([parameter for parameter in parameters if parameter.arg not in {"self", "cls"}])
            lines = (node.end_lineno or 0) - node.lineno + 1
            if count > 8 or lines > 60:
                wrong.append(f"{path.relative_to(ROOT)}: {node.name}: {lines} lines, {count} parameters")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["parse", "--help"], ["train", "--help"]])
def test_starting_is_light(argv):
    heavy = "{'torch', 'transformers', 'numpy', 'scipy', 'nltk', 'numba'}"
    code = (
        "import sys\nfrom ordtool.cli.app import main\n"
        f"try:\n    main({argv!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"assert not ({heavy} & set(sys.modules)), {heavy} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_unsafe_is_loaded():
    words = ("import pickle", "allow_pickle=True", "weights_only=False", "trust_remote_code=True")
    for path in sources():
        text = path.read_text()
        assert not [word for word in words if word in text], path


def commands(table: dict[str, str], path: tuple[str, ...] = ()):
    from ordtool.cli import score, train

    groups = {"train": train.COMMANDS, "score": score.COMMANDS}
    for name in table:
        yield from commands(groups[name], (name,)) if name in groups else [(*path, name)]


def test_every_command_has_a_page():
    from ordtool.cli.app import COMMANDS

    for command in commands(COMMANDS):
        page = ROOT / "docs" / ("-".join(command) + ".md")
        assert page.is_file(), page
        assert f"ordtool {' '.join(command)}" in page.read_text(), page


def test_exports_exist():
    import ordtool

    for name in ordtool.__all__:
        assert getattr(ordtool, name) is not None


# Of transformers, what its reference pages document.
DOCUMENTED = {"transformers", "transformers.modeling_outputs", "transformers.utils"}
UNDOCUMENTED = {"initialization"}
# What transformers' guides to custom models and tokenizers have subclasses set.
HOOKS = {
    "_init_weights", "_supports_sdpa", "_supports_attention_backend", "_no_split_modules", "_tied_weights_keys",
    "_keys_to_ignore_on_save", "_keys_to_ignore_on_load_missing", "_tokenize", "_convert_token_to_id",
    "_convert_id_to_token",
}  # fmt: skip


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def own_names(tree: ast.AST):
    """Private names that a module defines: functions, classes, variables, and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            if ast.unparse(node.value) in {"self", "cls"}:
                yield node.attr


def undocumented_names(tree: ast.AST, own: set[str]):
    """Private names that the package doesn't define, undocumented modules, low-level operators."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] not in {"ordtool", "__future__"}:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from (name for name in names if is_private(name) or name in UNDOCUMENTED)
            if node.module.startswith("transformers") and node.module not in DOCUMENTED:
                yield node.module
        elif isinstance(node, ast.Attribute):
            if ast.unparse(node) in {"torch.ops", "importlib.util.module_from_spec"}:
                yield ast.unparse(node)
            elif is_private(node.attr) and node.attr not in own and ast.unparse(node) != "os._exit":
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"getattr", "hasattr", "setattr"}:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
            if is_private(name) and (name not in own or name in HOOKS):
                yield name


def test_undocumented_names_are_used_in_one_place():
    trees = {path: ast.parse(path.read_text()) for path in sources()}
    own = {name for tree in trees.values() for name in own_names(tree) if is_private(name)}
    found = {
        path.relative_to(PACKAGE).as_posix(): set(undocumented_names(t, own)) for path, t in trees.items()
    }
    listed = found.pop("models/releases.py")
    assert {path: names for path, names in found.items() if names} == {}
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name in listed:
        assert name.split(".")[-1] in page or name in {"torch.ops", "importlib.util.module_from_spec"}, name


def test_no_private_name_of_a_base_class_is_replaced():
    import torch
    import transformers

    bases = [
        transformers.PreTrainedModel, transformers.GenerationMixin, transformers.PreTrainedTokenizer,
        transformers.PreTrainedConfig, transformers.Trainer, transformers.DynamicCache, torch.nn.Module,
    ]  # fmt: skip
    theirs = {name for base in bases for name in dir(base) if is_private(name)} - HOOKS
    replaced = {
        (path.name, node.name, name)
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.bases
        for name in own_names(node)
        if name in theirs
    }
    assert replaced == set()
