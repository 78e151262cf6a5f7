"""Text to words: Penn-style tokens with exact character offsets, and sentence boundaries.

The Penn Treebank rules are those of nltk's word tokenizer, the sentence boundaries those of sentencex. This
module adds what a parser of a person's own text needs on top: the character offsets of every token, surfaces
left as they were typed (a straight quote stays `"`), curly apostrophes read as apostrophes (don’t -> do n’t),
and speed: a running text repeats its words, so the rules run once for each distinct whitespace-separated chunk.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

from ordtool.errors import OrdtoolError
from ordtool.models.releases import import_without_packages
from ordtool.parsing.text.chinese import is_han, simplify

TokenKind = Literal["words", "chars", "jieba"]
TOKEN_KINDS: tuple[str, ...] = ("words", "chars", "jieba")


def check_token_kind(kind: Any, source: str) -> None:
    """Raise an OrdtoolError that names `source`, unless text can be split so: a kind of tokens, or `whitespace`."""
    if kind not in (*TOKEN_KINDS, "whitespace"):
        raise OrdtoolError(
            f"{source}: unknown kind of tokens {kind!r}", f"choices: {', '.join(TOKEN_KINDS)}, whitespace"
        )


# Apostrophes inside a word; a closing quote looks the same, but stands at a word's edge.
_INNER_APOSTROPHE = re.compile(r"(?<=\w)[’ʼ＇](?=\w)")
# A final period and the closing brackets and quotes behind it: the one rule that looks beyond a chunk.
_FINAL_PERIOD = re.compile(r"\.[\]\)}>\"'»”’\s]*$")
_CHUNK = re.compile(r"\S+")
# Letters and digits, with at most one sign behind: what most of a text is, and what needs no rules.
_PLAIN = re.compile(r"([^\W_]+)([,;:?!]?)")
# What stays whole where nltk's rules would cut it, or is cut off where they would not. Apostrophes inside words are
# straight by then.
_WHOLE = re.compile(
    r"""
    …+
    | (?<!\w) (?: (?:https?|ftp)://(?=\w) | www\.(?=\w) )                    # an address, without the comma behind it
      (?: \([^\s()<>"]*\) | [^\s<>"“”()] )* (?: \([^\s()<>"]*\) | [^\s<>"“”().,;:!?'’…\[\]{}] )
    | (?<![\w.+-]) [\w.+-]{1,64} @ (?:[\w-]{1,63}\.)+ [A-Za-z]{2,}             # e-mail
    | (?<![\w@\#&/]) [@\#] [A-Za-z_]\w*                                       # @someone, #topic
    | (?<!\S) (?: [:;=] '? [-o^]? [()\[\]DPp|/] | <3 ) (?= [.,!?]* (?:\s|$) )  # :-)
    | (?<!\w) (?: US | AU? | CA? | NZ | HK | NT | S ) \$ (?=\d) | [€£¥₹₩]      # US$ 5, € 5, as $ 5
    | (?<=\w) (?: n't | 'd ) (?='ve\b)                                         # could n't 've
    | (?<!\w) ['’] (?: \d0s | em | cause | til | n['’] ) (?!\w)                # the '90s; rock 'n' roll
    | (?<!\w) ['’][tT] (?= (?:is|was|were)\b )                                 # 't is
    | (?<![\w.]) (?: (?:[^\W\d_]\.){2,} | Ph\.D\. | etc\. | (?:Bros|Co|Corp|Inc|Jr|Ltd|Sr)\. ) (?![\w&/–-])
    """,  # noqa: RUF001
    re.VERBOSE,
)
_PLAIN_END = re.compile(r"([^\W_]*)([.,;:?!]?)")
# A word without punctuation that the Penn rules still cut in two (can|not, gon|na).
_MERGED = frozenset({"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"})
_BRACKETED_SENTENCE = re.compile(r"(?<=[.!?]\))\s+(?=[A-Z“\"(])")
_QUOTES = ('"', "''", "``")
_LONGEST_CACHED = 64
# One character each, but runs of letters and digits of scripts that write words with spaces stay whole.
_CHARACTER_TOKEN = re.compile(r"[0-9A-Za-zÀ-ɏͰ-ϿЀ-ӿ０-９Ａ-Ｚａ-ｚ]+|\S")


class Token(NamedTuple):
    """One token of a text: its surface and where it stands.

    Attributes:
        text: The characters of the input, unchanged: `text[start:end]`.
        start: Offset of the first character.
        end: Offset behind the last character (half-open).
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence to parse.

    Attributes:
        text: The text.
        tokens: Its tokens where they are known already; None: they are found.
        punctuation: Whether each known token is punctuation; None: judged by their surface.
        tags: Part-of-speech tags of known tokens.
        data: Keys to pass through to the output.
        where: `file:line`, for messages.
    """

    text: str
    tokens: tuple[Token, ...] | None = None
    punctuation: tuple[bool, ...] | None = None
    tags: tuple[str, ...] | None = None
    data: dict[str, Any] | None = None
    where: str = ""


def tokenize(text: str, kind: TokenKind = "words") -> list[Token]:
    """Split one sentence into tokens with their character offsets.

    Args:
        text: A sentence. With `words` only a period at its very end is split from its word, so running text
            should go through `split_sentences` first; that of an abbreviation (`U.S.`, `p.m.`, `etc.`) never is.
        kind: `words`: Penn Treebank rules (nltk's word tokenizer) for English and languages written like it.
            `chars`: a token a character, for Chinese; runs of Latin, Greek or Cyrillic letters and of digits
            stay together. `jieba`: Chinese words by the jieba segmenter, in
            traditional characters as in simplified ones.

    Returns:
        Tokens in order of the text. They do not overlap, hold no whitespace, and together cover every character
        that is not whitespace; `text[token.start:token.end] == token.text` always.

    Raises:
        ValueError: If `kind` is none of the three.
        OrdtoolError: If `kind` is `jieba` and jieba is not installed.

    Deviation from nltk: tokens keep the input's quotes instead of Penn's opening and closing marks, an
    apostrophe inside a word is one whatever its shape, `…` is a token as `...` is, and a tab separates words as a
    space does. Addresses of the web and of mail, `@someone`, `#topic` and `:-)` are one token each; `€` and `£` are cut
    off as `$` is; `couldn't've` is `could n't 've`.
    """
    if kind == "words":
        return [Token(text[start:end], start, end) for start, end in _word_spans(text)]
    if kind == "chars":
        return [Token(match.group(), match.start(), match.end()) for match in _CHARACTER_TOKEN.finditer(text)]
    if kind == "jieba":
        # The dictionary is a simplified one; a fold is as long as its text, so the offsets are the text's own.
        pieces = _jieba_tokenize()(simplify(text))
        return [Token(text[start:end], start, end) for piece, start, end in pieces if not piece.isspace()]
    raise ValueError(f"kind is one of {', '.join(TOKEN_KINDS)}, not {kind!r}")


def whitespace_tokens(text: str) -> list[Token]:
    """Take the text's own whitespace-separated tokens as they stand, with offsets (`parse --tokenized`)."""
    return [Token(match.group(), match.start(), match.end()) for match in _CHUNK.finditer(text)]


def join_lines(lines: Sequence[str]) -> str:
    """Join the lines of hard-wrapped text: with spaces, but for none where a Chinese sentence was broken."""
    joined = lines[0] if lines else ""
    for line in lines[1:]:
        chinese = joined[-1:] and line[:1] and _is_wide(joined[-1]) and _is_wide(line[0])
        joined += line if chinese else f" {line}"
    return joined


def _is_wide(character: str) -> bool:
    return is_han(character) or "\u3000" <= character <= "\u303f" or "\uff00" <= character <= "\uff65"


def split_sentences(text: str, language: str = "en") -> list[Token]:
    """Split running text into sentences with their character offsets.

    Abbreviations (Dr., U.S., Fig. 3), initials, numbers, quotes, ellipses and Chinese marks (。！？) are
    sentencex's rules; a blank line always ends a sentence, a single line break never does. On top of it, a sentence
    wholly in brackets ends at its closing bracket: `(He agreed.) She did not.` is two.

    Args:
        text: Running text of any length.
        language: Two-letter code, for the abbreviations of that language.

    Returns:
        Sentences in order, without the whitespace around them; what lies between two of them is whitespace.
    """
    import sentencex

    sentences: list[Token] = []
    for boundary in sentencex.get_sentence_boundaries(language, text):
        start, end = boundary["start_index"], boundary["end_index"]
        for piece in _BRACKETED_SENTENCE.split(text[start:end]):
            sentence = piece.strip()
            if sentence:
                begin = text.index(sentence, start)
                sentences.append(Token(sentence, begin, begin + len(sentence)))
                start = begin + len(sentence)
    return sentences


def _word_spans(text: str) -> Iterator[tuple[int, int]]:
    """Penn-style token spans of a sentence, chunk by whitespace-separated chunk."""
    plain = _INNER_APOSTROPHE.sub("'", text)
    final = _FINAL_PERIOD.search(plain)
    # The last chunk, too, has rules of its own: what stands at the very end has no space behind it.
    tail = _chunk_start(plain, len(plain.rstrip()) if final is None else final.start())
    for match in _CHUNK.finditer(plain, 0, tail):
        chunk, start = match.group(), match.start()
        for begin, end in _cached_spans(chunk) if len(chunk) <= _LONGEST_CACHED else _chunk_spans(chunk):
            yield start + begin, start + end
    easy = _PLAIN_END.match(plain, tail)
    if (
        easy is not None
        and easy[1].lower() not in _MERGED
        and not plain[easy.end() :].strip()
        and not _WHOLE.fullmatch(easy[0])
    ):
        if easy[1]:
            yield easy.span(1)
        if easy[2]:
            yield easy.span(2)
        return
    for begin, end in _penn_spans(plain[tail:]):
        yield tail + begin, tail + end


def _chunk_start(text: str, position: int) -> int:
    """Where the whitespace-separated chunk around `position` begins."""
    while position and not text[position - 1].isspace():
        position -= 1
    return position


def _chunk_spans(chunk: str) -> tuple[tuple[int, int], ...]:
    """Token spans of what stands between two spaces in the middle of a sentence."""
    easy = _PLAIN.fullmatch(chunk)
    if easy is not None and easy[1].lower() not in _MERGED:
        end = easy.end(1)
        return ((0, end), (end, len(chunk))) if easy[2] else ((0, end),)
    # The sentinel keeps the rules for the end of a sentence away from the middle of one.
    return tuple(_penn_spans(chunk + " x")[:-1])


_cached_spans = lru_cache(maxsize=1 << 16)(_chunk_spans)


def _penn_spans(text: str) -> list[tuple[int, int]]:
    """Token spans of nltk's tokenizer, found again in the text that it rewrote, around what stays whole."""
    spans: list[tuple[int, int]] = []
    begin = 0
    for whole in _WHOLE.finditer(text):
        # The sentinel keeps the rules for the end of a sentence away from what stands before.
        spans += [(begin + a, begin + b) for a, b in _nltk_spans(text[begin : whole.start()] + " x")[:-1]]
        spans.append(whole.span())
        begin = whole.end()
    return spans + [(begin + a, begin + b) for a, b in _nltk_spans(text[begin:])]


def _nltk_spans(text: str) -> list[tuple[int, int]]:
    try:
        return _align(_penn_tokenizer().tokenize(text), text)
    except (TimeoutError, ValueError):
        # nltk guards its expressions with a clock; a chunk that trips it is no prose, and any split will do.
        return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def _align(pieces: list[str], text: str) -> list[tuple[int, int]]:
    """Return the span of every token in the text: the tokenizer only adds spaces and turns quotes into `` or ''."""
    spans: list[tuple[int, int]] = []
    position, length = 0, len(text)
    for piece in pieces:
        while position < length and text[position].isspace():
            position += 1
        if text.startswith(piece, position):
            end = position + len(piece)
        elif piece in _QUOTES:
            surface = next((quote for quote in _QUOTES if text.startswith(quote, position)), None)
            if surface is None:
                raise ValueError(f"no quote at character {position}")
            end = position + len(surface)
        else:
            raise ValueError(f"token {piece!r} is not at character {position}")
        spans.append((position, end))
        position = end
    if text[position:].strip():
        raise ValueError(f"text left over at character {position}")
    return spans


@cache
def _penn_tokenizer() -> Any:
    # `import nltk` runs the whole toolkit's imports (scipy.stats, scikit-learn where it is installed): two seconds
    # before the first sentence is parsed.
    module = import_without_packages("nltk.tokenize.destructive", ("nltk", "nltk.tokenize"))
    return module.NLTKWordTokenizer()


@cache
def _jieba_tokenize() -> Callable[[str], Iterator[tuple[str, int, int]]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # jieba's own source has old escapes and an old import
            import jieba
    except ImportError as error:
        raise OrdtoolError(
            "Chinese words need jieba, which is not installed", hint="pip install 'ordtool[zh]'"
        ) from error
    jieba.setLogLevel(logging.WARNING)  # jieba reports the building of its dictionary on stderr
    function: Callable[[str], Iterator[tuple[str, int, int]]] = jieba.tokenize
    return function
