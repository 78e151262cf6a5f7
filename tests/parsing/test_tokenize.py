import subprocess
import sys

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ordtool.errors import OrdtoolError
from ordtool.parsing.text import tokenize as words
from ordtool.parsing.text.tokenize import (
    _penn_tokenizer,
    split_sentences,
    tokenize,
    whitespace_tokens,
)
from ordtool.parsing.trees.punctuation import is_punctuation


def surfaces(tokens):
    return [token.text for token in tokens]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She can't go.", "She ca n't go ."),
        ("I don’t know, he’s gone", "I do n’t know , he ’s gone"),
        ("We'll, they've: I'd; you're!", "We 'll , they 've : I 'd ; you 're !"),
        ('"Why?" she asked.', '" Why ? " she asked .'),
        ("``Fine,'' he said ''so''", "`` Fine , '' he said '' so ''"),
        ("“Go,” he said.", "“ Go , ” he said ."),
        (
            "It cost $3.50 (3,36 euros) in the U.S. today.",
            "It cost $ 3.50 ( 3,36 euros ) in the U.S. today .",
        ),
        ("I cannot; we're gonna", "I can not ; we 're gon na"),
        (
            "Mr. Dell's well-known 10% rule -- e.g. AT&T...",
            "Mr. Dell 's well-known 10 % rule -- e.g . AT & T ...",
        ),
        ('He left.")', 'He left . " )'),
        ("I waited… and left…", "I waited … and left …"),
        ("“Wait…” he said; can't…cannot…", "“ Wait … ” he said ; ca n't … can not …"),
        ("…so it goes……. …", "… so it goes …… . …"),
        ("already split , as it is .", "already split , as it is ."),
        ("cannot.", "can not ."),
        # Addresses, names, topics and faces are one token.
        (
            "See https://a.org/x?y=1&z=(2), or (www.b.de/c).",
            "See https://a.org/x?y=1&z=(2) , or ( www.b.de/c ) .",
        ),
        ("Write to jo.doe+x@mail.co.uk.", "Write to jo.doe+x@mail.co.uk ."),
        ("@ann likes #trees, and #1", "@ann likes #trees , and # 1"),
        ("So nice :-) <3 !", "So nice :-) <3 !"),
        ("as follows: (a) one", "as follows : ( a ) one"),
        ("€1,100, £5m, 3 € and US$5", "€ 1,100 , £ 5m , 3 € and US$ 5"),
        ("I'd've, couldn’t've", "I 'd 've , could n’t 've"),
        ("’Twas rock 'n' roll of the '90s", "’T was rock 'n' roll of the '90s"),
        # The period of an abbreviation stays with it at the end, too.
        ("In Washington, D.C.", "In Washington , D.C."),
        ('"At 5 p.m.")', '" At 5 p.m. " )'),
        ("Pens, ink, etc.", "Pens , ink , etc."),
        ("So did I.", "So did I ."),
        ("The U.S.-based firm's plan B.", "The U.S.-based firm 's plan B ."),
        (".", "."),
        ("", ""),
        (" \t ", ""),
    ],
)
def test_penn_words(text, expected):
    if "e.g. AT&T" in text:  # a period inside a sentence stays with its word
        expected = expected.replace("e.g .", "e.g.")
    assert surfaces(tokenize(text)) == expected.split()


# Pieces that make the treebank rules interact, far more often than random characters do.
_PIECES = st.sampled_from(
    ["word", "can't", "cannot", "wanna", "'tis", "d'ye", '"', "''", "``", "'", "’", "‘", "“", "”", ".", "..", "...",
     ",", ":", ";", "?", "!", "(", ")", "[", "<", "--", "—", "$", "%", "3.5", "1,000", "U.S.", "s'", " ", "  ", "\t",
     "\u2028", "\xa0", "é", "你好", "😀", "*", "@", "-LRB-", "n't", "'s", "\\", "{", "}", "a@b.de", "www.a.b", "#", "€"]
)  # fmt: skip


@given(st.one_of(st.lists(_PIECES | st.just("…"), max_size=12).map("".join), st.text(max_size=30)))
@example("\"'\"''")
@example("a '' \" ' ''\".\")")
def test_offsets_are_exact_and_cover_the_text(text):
    for kind in ("words", "chars"):
        tokens = tokenize(text, kind)
        assert all(text[token.start : token.end] == token.text for token in tokens)
        assert all(left.end <= right.start for left, right in zip(tokens, tokens[1:], strict=False))
        assert "".join(token.text for token in tokens) == "".join(text.split())
        assert not any(character.isspace() for token in tokens for character in token.text)


@given(st.lists(_PIECES, max_size=12).map("".join))
@example("He left.” )")
@example("s's'")
@example("s's' ")
@example("cannot wanna 'tis gimme, lemme. ")
def test_words_are_those_of_nltk(text):
    """The chunk-wise, cached rules give what nltk's tokenizer gives for the whole sentence at once."""
    # The deliberate differences: an inner apostrophe of any shape, any whitespace counts as a space, and what stays whole.
    text = "".join(" " if character.isspace() else character for character in text.replace("’", "'"))
    assume(not words._WHOLE.search(text))
    theirs = [piece.replace("''", '"').replace("``", '"') for piece in _penn_tokenizer().tokenize(text)]
    ours = [piece.replace("''", '"').replace("``", '"') for piece in surfaces(tokenize(text))]
    assert ours == theirs


def test_the_tokenizer_does_not_import_the_whole_toolkit_nor_break_it():
    program = """
import sys, ordtool.parsing.text.tokenize as words
words.tokenize("can't stop")
assert "nltk" not in sys.modules and "scipy" not in sys.modules
import nltk
assert nltk.word_tokenize("can't stop", preserve_line=True) == ["ca", "n't", "stop"]
words._penn_tokenizer.cache_clear()
assert len(words.tokenize("can't stop")) == 3 and "nltk.corpus" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_megabyte_without_spaces():
    tokens = tokenize("a," * 50_000 + "b.")
    assert len(tokens) == 100_002 and surfaces(tokens[-2:]) == ["b", "."]


@pytest.mark.parametrize("piece", ["http://(", "a@", "a.", "@#", "(a", "n't'"])
def test_repeated_signs_take_linear_time(piece):
    assert "".join(surfaces(tokenize(piece * 2_000))) == piece * 2_000


def test_characters_keep_latin_words_whole():
    assert (
        surfaces(tokenize("我在iPhone 15上读《论语》。", "chars"))
        == "我 在 iPhone 15 上 读 《 论 语 》 。".split()
    )


def test_jieba_words_with_offsets():
    pytest.importorskip("jieba")
    text = "我们 喜欢北京。"
    tokens = tokenize(text, "jieba")
    assert surfaces(tokens) == ["我们", "喜欢", "北京", "。"]
    assert all(text[token.start : token.end] == token.text for token in tokens)


def test_jieba_reads_traditional_characters_as_simplified_ones():
    pytest.importorskip("jieba")
    text = "馬祖列島是隸屬於中華民國的群島，他著急地看著顯著的變化。"
    simplified = "马祖列岛是隶属于中华民国的群岛，他着急地看着显著的变化。"
    tokens = tokenize(text, "jieba")
    assert [(t.start, t.end) for t in tokens] == [(t.start, t.end) for t in tokenize(simplified, "jieba")]
    assert "".join(surfaces(tokens)) == text
    assert {"中華民國", "群島", "看著", "顯著"} <= set(surfaces(tokens))


def test_without_jieba_one_line_says_what_to_install(monkeypatch):
    words._jieba_tokenize.cache_clear()
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(OrdtoolError, match="jieba, which is not installed") as caught:
        tokenize("我们", "jieba")
    assert caught.value.hint == "pip install 'ordtool[zh]'"
    words._jieba_tokenize.cache_clear()


def test_lines_are_joined_as_their_script_is_written():
    assert words.join_lines(["the cat", "sat"]) == "the cat sat"
    assert words.join_lines(["他去了北", "京，", "然后", "use", "它"]) == "他去了北京，然后 use 它"
    assert words.join_lines([]) == "" and words.join_lines(["", "我"]) == " 我"


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="words, chars, jieba"):
        tokenize("a", "bytes")  # type: ignore[arg-type]


def test_whitespace_tokens_are_the_input_split():
    text = "  ( as\u00a0is )\tdon't "
    assert surfaces(whitespace_tokens(text)) == text.split()


@pytest.mark.parametrize(
    ("token", "expected"),
    [(",", True), ("``", True), ("''", True), ("-LRB-", True), ("--", True), ("...", True), ("。", True), ("“", True),
     ("`", True), ("%", False), ("$", False), ("&", False), ("U.S.", False), ("n't", False), ("'s", False), ("", False),
     ("3", False), ("*", False)],
)  # fmt: skip
def test_punctuation(token, expected):
    assert is_punctuation(token) is expected


def test_sentences():
    text = (
        "Dr. Smith went to Washington D.C. on Jan. 5th.  It cost $3.50... Really? “Yes!” he said.\n"
        'The U.S. economy grew\n3.2 percent. (He agreed.) J. K. Rowling did not. "Why?" she asked.\n\nA heading\n\n'
        "我喜欢苹果。你呢？"
    )
    sentences = split_sentences(text)
    assert surfaces(sentences) == [
        "Dr. Smith went to Washington D.C. on Jan. 5th.",
        "It cost $3.50...",
        "Really?",
        "“Yes!” he said.",
        "The U.S. economy grew\n3.2 percent.",
        "(He agreed.)",
        "J. K. Rowling did not.",
        '"Why?" she asked.',
        "A heading",
        "我喜欢苹果。",
        "你呢？",
    ]


@given(
    st.lists(
        st.sampled_from(["Go. ", "你好。", "😀 ", "\n\n", "é! ", "(So.) A", '"No?" ', "etc. ", "\t"])
    ).map("".join)
)
def test_sentence_offsets(text):
    sentences = split_sentences(text)
    assert all(text[sentence.start : sentence.end] == sentence.text for sentence in sentences)
    assert "".join("".join(surfaces(sentences)).split()) == "".join(text.split())
