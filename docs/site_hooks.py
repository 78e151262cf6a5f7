"""What the site is made of, beside docs/: hooks that mkdocs calls.

The README is the first page; the guide for contributors, the changelog and the benchmarks' results are pages too, so
that every link of the repository is one of the site and no text is kept twice. Formulas become MathML, which browsers
show without scripts.
"""

import html
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS-*.md"]
LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.S)


def uri_of(path: str) -> str:
    """Give the place on the site of a file of the repository."""
    return {"README.md": "index.md"}.get(path, path.removeprefix("docs/"))


def path_of(uri: str) -> str:
    """Give the file of the repository, of which a page of the site is made."""
    if uri == "index.md":
        return "README.md"
    return f"docs/{uri}" if (ROOT / "docs" / uri).exists() else uri


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what stands beside docs/."""
    for found in sorted(path for pattern in BESIDE for path in ROOT.glob(pattern)):
        uri = uri_of(found.relative_to(ROOT).as_posix())
        files.append(File.generated(config, uri, abs_src_path=str(found)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = path_of(page.file.src_uri)

    def link(found: re.Match[str]) -> str:
        path = os.path.normpath(os.path.join(os.path.dirname(here), found[0]))
        return os.path.relpath(uri_of(path), os.path.dirname(page.file.src_uri))

    return LINK.sub(link, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write formulas as MathML."""

    def formula(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]), display="inline" if found[2] == "(" else "block")

    return FORMULA.sub(formula, content)
