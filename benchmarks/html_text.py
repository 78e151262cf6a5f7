"""The paragraphs of HTML pages as text, a paragraph a line; code, tables and repeated paragraphs are left out.

    python benchmarks/html_text.py FOLDER... > text.txt

A folder stands for the pages in it. `--without the,of,and` leaves out paragraphs in which every twentieth word is one of
these: those that a translation left in English.
"""

import argparse
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "li", "div", "dt", "dd", "td", "br", "body"}
_SKIPPED = {"pre", "script", "style", "table", "head"}
_SHORTEST = 40


class _Paragraphs(HTMLParser):
    """Collects the paragraphs of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._pieces: list[str] = []
        self._skipped = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skipped += tag in _SKIPPED
        if tag in _BLOCKS:
            self.end_paragraph()

    def handle_endtag(self, tag: str) -> None:
        self._skipped = max(0, self._skipped - (tag in _SKIPPED))
        if tag in _BLOCKS:
            self.end_paragraph()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._pieces.append(data)

    def end_paragraph(self) -> None:
        """Keep what was read since the last paragraph, if it is long enough to be one."""
        text = re.sub(r"\s+", " ", "".join(self._pieces)).strip()
        if len(text) >= _SHORTEST:
            self.found.append(text)
        self._pieces.clear()


def paragraphs(page: str) -> list[str]:
    """The paragraphs of a page."""
    parser = _Paragraphs()
    parser.feed(page)
    parser.end_paragraph()
    return parser.found


def _kept(folders: list[str], foreign: set[str]) -> Iterator[str]:
    seen = set()
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.html*")):
            for text in paragraphs(path.read_text(encoding="utf-8", errors="replace")):
                words = text.lower().split()
                if text not in seen and sum(word in foreign for word in words) * 20 < len(words):
                    seen.add(text)
                    yield text


def main() -> None:
    """Print the paragraphs of all pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--without", default="", help="words between commas")
    options = parser.parse_args()
    for text in _kept(options.folders, set(filter(None, options.without.split(",")))):
        print(text)


if __name__ == "__main__":
    main()
