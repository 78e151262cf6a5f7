import pytest

from ordtool.errors import OrdtoolError
from ordtool.io.conllu import conllu_sentences
from ordtool.io.inputs import open_input
from ordtool.io.text import read_records

ENGLISH = """# newdoc id = one
# sent_id = 1
# text = I don't (really) know: 3/4.
1	I	I	PRON	PRP	_	2	nsubj	_	_
2-3	don't	_	_	_	_	_	_	_	SpaceAfter=Yes
2	do	do	AUX	VBP	_	0	root	_	_
3	n't	not	PART	RB	_	2	advmod	_	_
4	(	(	PUNCT	-LRB-	_	2	punct	_	SpaceAfter=No
5	really	really	ADV	RB	_	2	advmod	_	SpaceAfter=No
6	)	)	PUNCT	-RRB-	_	2	punct	_	_
7	know	know	VERB	VB	_	2	x	_	SpaceAfter=No
8	:	:	PUNCT	:	_	2	punct	_	_
8.1	that	that	PRON	_	_	_	_	_	_
9	3/4	3/4	NUM	CD	_	2	obj	_	SpaceAfter=No
10	.	.	PUNCT	.	_	2	punct	_	_

"""
FRENCH = """1	Je	je	PRON	_	_	2	nsubj	_	_
2	viens	venir	VERB	_	_	0	root	_	_
3-4	du	_	_	_	_	_	_	_	_
3	de	de	ADP	_	_	5	case	_	_
4	le	le	DET	_	_	5	det	_	_
5	10 000	10 000	NUM	_	_	2	obl	_	SpaceAfter=No
6	!	!	PUNCT	_	_	2	punct	_	_
"""


def read(path, on_error=None):
    with open_input(path) as stream:
        return list(conllu_sentences(stream, on_error))


@pytest.mark.parametrize("name", ["a.conllu", "a.txt", "a"])
def test_texts_are_those_of_the_comments(tmp_path, name):
    path = tmp_path / name
    path.write_text(ENGLISH + FRENCH)
    records = list(read_records(path))
    assert [record.text for record in records] == ["I don't (really) know: 3/4.", "Je viens du 10 000!"]
    assert [record.line for record in records] == [1, 17]


def test_words_are_pieces_of_the_text(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(ENGLISH + FRENCH)
    english, french = read(path)
    assert english.words == ("I", "do", "n't", "(", "really", ")", "know", ":", "3/4", ".")
    assert french.words == ("Je", "viens", "du", "10", "000", "!")
    for sentence in (english, french):
        assert tuple(sentence.text[a:b] for a, b in sentence.offsets) == sentence.words
    assert english.tags == ("PRP", "VBP", "RB", "-LRB-", "RB", "-RRB-", "VB", ":", "CD", ".")
    assert french.tags == ("PRON", "VERB", "ADP+DET", "NUM", "NUM", "PUNCT")
    assert english.punctuation == tuple(word in "(:)." for word in english.words)


def test_a_text_that_is_not_its_words_gives_way_to_them(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text(ENGLISH.replace("# text = I don't", "# text = We don't"))
    assert read(path)[0].text == "I don't (really) know: 3/4."


@pytest.mark.parametrize("bad", ["1\tOne\tone", "The cat sat.", "x\t" + "_\t" * 8 + "_"])
def test_a_bad_line_is_named_and_its_sentence_skipped(tmp_path, bad):
    path = tmp_path / "a.conllu"
    path.write_text(f"# text = One\n{bad}\n\n{FRENCH}")
    with pytest.raises(OrdtoolError, match=r"a\.conllu:2: no line of CoNLL-U"):
        read(path)
    errors: list[OrdtoolError] = []
    assert [sentence.words[0] for sentence in read(path, errors.append)] == ["Je"]
    assert len(errors) == 1
