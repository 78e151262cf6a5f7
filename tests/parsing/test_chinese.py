"""Traditional characters as simplified ones."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordtool.parsing.text.chinese import (
    CHINESE_KINDS,
    _table,
    is_chinese,
    is_han,
    simplify,
)
from ordtool.parsing.text.tokenize import TOKEN_KINDS


@pytest.mark.parametrize(
    ("traditional", "simplified"),
    [
        ("漢語詞彙與語法學習", "汉语词汇与语法学习"),
        ("臺灣裡面的麵包", "台湾里面的面包"),
        ("這個於是為了後來", "这个于是为了后来"),
        ("看著", "看着"),
        ("著名的著作，作者顯著", "著名的著作，作者显著"),
        ("汉语", "汉语"),
        ("ABC, don't 12", "ABC, don't 12"),
        ("２０２６年ＡＢ", "2026年AB"),
        ("カタカナ", "カタカナ"),
    ],
)
def test_characters(traditional, simplified):
    assert simplify(traditional) == simplified


@given(
    st.text(alphabet=st.one_of(st.characters(), st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF)))
)
def test_a_fold_is_as_long_as_its_text_and_folds_once(text):
    folded = simplify(text)
    assert len(folded) == len(text)
    assert simplify(folded) == folded


def test_no_character_leads_to_another_traditional_one():
    assert len(_table()) > 4000
    assert [chr(code) for code in _table() if simplify(simplify(chr(code))) != simplify(chr(code))] == []


def test_what_is_chinese():
    assert all(map(is_han, "汉語〇㐀𠀀")) and not any(map(is_han, "aカ。，１ー"))
    assert is_chinese("这是一个句子。") and is_chinese("我在 iPad 上读书看报")
    assert (
        not is_chinese("The word 汉语 is Chinese.")
        and not is_chinese("汉语")
        and not is_chinese("これはペンです")
    )
    assert set(TOKEN_KINDS) - CHINESE_KINDS == {"words"}
