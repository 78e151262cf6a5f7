"""Trees as a page of HTML: constituents that open and close, in one file, without scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from ordtool.parsing.trees.chart import Span
from ordtool.parsing.trees.punctuation import is_punctuation
from ordtool.parsing.trees.svg import legal_text

# Sentences that are open at first: more than fill a screen.
_OPEN = 20
# Characters shown of a constituent that is closed.
_SHOWN = 200
# Browsers stop nesting elements at about five hundred; what lies deeper is words in a row.
_DEEPEST = 200

_HEAD = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Trees</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#1f2328;background:#fff}
body>details{margin:.4em 0}
body>details>summary{font-weight:600}
details details{margin-left:.35em;padding-left:.8em;border-left:2px solid #4477aa}
details details details{border-color:#228833}
details details details details{border-color:#aa3377}
details details details details details{border-color:#cc6611}
details details>summary{color:#57606a}
details details[open]>summary>span{display:none}
summary{cursor:pointer}
b{display:block;font-weight:400;margin-left:1.2em}
b.mark{color:#8c959f}
</style></head><body>
"""
_TAIL = "</body></html>\n"


def draw_html(trees: Iterable[tuple[Sequence[str], Sequence[Span]]]) -> Iterator[str]:
    """Draw trees as a page on which each sentence, and each constituent, opens and closes by a click.

    Args:
        trees: Tokens and constituents wider than one token (in pre-order) of each sentence.

    Yields:
        Pieces of a document that stands alone: no scripts, nothing from elsewhere. They come as the trees do, so a
        book needs no memory.
    """
    yield _HEAD
    for number, (tokens, spans) in enumerate(trees):
        yield _sentence([legal_text(token) for token in tokens], spans, number < _OPEN)
    yield _TAIL


def _sentence(tokens: Sequence[str], spans: Sequence[Span], is_open: bool) -> str:
    whole = (0, len(tokens))
    openings: dict[int, list[Span]] = {}
    for span in spans:
        if span != whole:
            openings.setdefault(span[0], []).append(span)
    parts = [f"<details{' open' if is_open else ''}><summary>{_text(tokens) or '()'}</summary>"]
    ends: list[tuple[int, bool]] = []  # of open constituents, and whether they have an element
    for place, token in enumerate(tokens):
        for start, end in openings.get(place, ()):
            shown = len(ends) < _DEEPEST
            ends.append((end, shown))
            if shown:
                text = _text(tokens[start:end])
                parts.append(f"<details open><summary><span>{text}</span></summary>")
        parts.append(f"<b{' class=mark' if is_punctuation(token) else ''}>{escape(token)}</b>")
        while ends and ends[-1][0] == place + 1:
            parts.append("</details>" * ends.pop()[1])
    return "".join(parts) + "</details>\n"


def _text(tokens: Sequence[str]) -> str:
    text = " ".join(tokens[:_SHOWN])
    return escape(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")
