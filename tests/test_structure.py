"""The rules of the house that can be read off the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "ordtool"
ROOT = PACKAGE.parent
SUBJECTS = {"parsing", "embedding", "independence", "transformer", "generation", "extrapolation", "tuning"}
BASE = {"arguments", "errors", "progress", "runtime", "parallel", "memory", "plotting", "io"}
# What each part may import, beside itself.
ALLOWED = {
    **{subject: BASE | {"models"} for subject in SUBJECTS},
    "models": BASE,
    "arguments": {"errors"},
    "io": {"arguments", "errors", "progress"},
    "runtime": {"errors"},
    "parallel": {"errors"},
    "memory": set(),
    "plotting": {"errors", "runtime"},
    "progress": set(),
    "errors": set(),
    "console": {"errors", "progress", "io"},
    "cli": {*SUBJECTS, *BASE, "models", "console"},
}
for natural in ("parsing", "embedding", "generation", "extrapolation", "tuning"):
    ALLOWED[natural] = ALLOWED[natural] | {"transformer"}


def sources():
    return sorted(PACKAGE.rglob("*.py"))


def imports_of(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "ordtool":
                yield from (f"ordtool.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports_of(path):
        root, _, rest = name.partition(".")
        assert root != "click", "Typer brings its own click"
        if root == "typer":
            assert part == "cli"
        if root == "rich":
            assert part in {"cli", "console"}
        if root == "ordtool" and rest and part in ALLOWED:
            target = rest.split(".")[0]
            assert target in ALLOWED[part] | {part, "__version__"}, f"{part} must not import {target}"


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
