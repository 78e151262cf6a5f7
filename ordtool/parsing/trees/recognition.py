"""What brackets are: trees or prose in brackets, with labels or without."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ordtool.parsing.trees.punctuation import is_punctuation

ATOM = re.compile(r"[()]|[^\s()]+")
"""A bracket, a label or a leaf."""

_FIRST_LABEL = re.compile(r"[A-Z_][A-Z0-9_=|:+$*-]*")
# Where a tree goes on behind a bracket there is a space.
_TOUCHES = re.compile(r"\)[^\s()]")
# A label above words, and one of a word: no small letters, which nearly all text has.
_PHRASE = re.compile(r"[A-Z][^a-z]*")
_TAG = re.compile(r"[A-Z_][^a-z]*|-[A-Z]+-|[^\w]+")
# Roots of treebanks whose labels are in lower case.
_SMALL_ROOTS = frozenset("top root s s1 sinv sq sbar sbarq sent frag cp ip np vp fp".split())


def begins_tree(line: str) -> bool:
    """Whether a line that isn't blank is the first of a treebank, not of a text.

    It is if it can begin a tree with labels, `(S (NN a))`, `( (S (NP-SBJ (DT The)` or `(ROOT` alone: behind a label stand
    words and a closing bracket, or other brackets, and never both. That tells `(NOTE (A story.` and `(NOTE (SEE A) for`
    from a tree. Labels don't begin with a lower-case letter, and the first has none at all, or all are in lower case and
    the first is a root's, `(s (np (dt the)`. A tree without labels is known if it is one line of nested pairs, as
    `(the (cat (sat down)) .)`, not counting punctuation. What both could be, `(NEW YORK)`, is text.
    """
    atoms = ATOM.findall(line)
    if _begins_labelled(atoms) or (_is_binary(atoms) and not _TOUCHES.search(line)):
        return True
    labels = [label for before, label in pairwise(atoms) if before == "(" and label not in "()"]
    small = bool(labels) and labels[0] in _SMALL_ROOTS and not any(map(str.isupper, labels))
    return small and _begins_labelled([atom.upper() for atom in atoms])


def _begins_labelled(atoms: Sequence[str]) -> bool:
    depth = deepest = labels = tagged = 0
    last = "start"  # what the atom before is: "(", ")", a label or a leaf
    for atom in atoms:
        if atom == "(":
            if last == "leaf":
                return False
            depth, last = depth + 1, "("
            deepest = max(depth, deepest)
        elif atom == ")":
            if last == "label" or depth == 0:
                return False
            tagged += last == "leaf"
            depth, last = depth - 1, ")"
        elif last == "(":
            if not _is_label(atom, first=labels == 0):
                return False
            labels, last = labels + 1, "label"
        elif last in ("label", "leaf"):
            last = "leaf"
        else:
            return False
    goes_on = depth > 0 and (tagged > 0 or last in ("label", "("))
    return labels > 0 and (goes_on or (tagged > 0 and deepest > 1))


def _is_label(atom: str, first: bool) -> bool:
    return _FIRST_LABEL.fullmatch(atom) is not None if first else not atom[0].islower()


def _is_binary(atoms: Sequence[str]) -> bool:
    """Whether atoms are one bracket in which every bracket holds two things besides punctuation, one of them a bracket."""
    held = [0]  # by the line itself, then by each open bracket
    nested = False
    for atom in atoms:
        if atom == ")":
            if len(held) == 1 or held.pop() != 2:
                return False
            continue
        held[-1] += atom == "(" or len(held) == 1 or not is_punctuation(atom)
        if atom == "(":
            nested = nested or len(held) > 1
            held.append(0)
        elif len(held) == 1:
            return False
    return held == [1] and nested


def is_unlabelled(atoms: Sequence[str]) -> bool:
    """Whether brackets certainly have no labels: a word stands behind a closing bracket.

    `(a (b c))` can be read both ways, and is then taken for labelled.
    """
    return any(left == ")" and right not in "()" for left, right in zip(atoms, atoms[1:], strict=False))


def is_labelled(atoms: Sequence[str]) -> bool | None:
    """Whether the brackets of a tree have labels: True and False where that is certain, None where it isn't.

    Certainly without labels are trees where a word stands behind a closing bracket, `((the cat) sat)`, a bracket inside of
    the tree begins with another, `(a ((b c) d))`, or the outermost holds several and no label, `((a b) (c d))`. In the last
    two a treebank may have forgotten a label: the other ones, where they look so and one is before several brackets, say so.
    Certainly with labels are those where every bracket but the outermost has one that looks so, before words or before
    brackets, and one is before several brackets, `(S (NP (DT a)) (VP b))`, or the outermost has none and is around a single
    bracket, `( (S (NP a)))`.
    """
    atoms = tuple(atoms)
    if is_unlabelled(atoms):
        return False
    inner = any(pair == ("(", "(") for pair in pairwise(atoms[1:]))
    if _looks_labelled(atoms):
        return None if inner else True
    return False if inner or (atoms[:2] == ("(", "(") and _count_outermost(atoms) > 1) else None


def _looks_labelled(atoms: Sequence[str]) -> bool:
    """Whether all labels look so and one of several brackets is among them; a bracket of brackets may lack its own."""
    children = [0]  # of each open bracket
    labels = [""]
    branches = False
    small = len(atoms) > 1 and atoms[1] in _SMALL_ROOTS
    for before, atom in pairwise(("", *atoms)):
        if atom == "(":
            children[-1] += 1
            children.append(0)
            labels.append("")
        elif atom == ")":
            count, label = children.pop(), labels.pop()
            phrase = label.upper() if small else label
            if not (_PHRASE if count else _TAG).fullmatch(phrase) and (label or not count):
                return False
            branches = branches or (count > 1 and label != "")
            branches = branches or (count == 1 and not label and len(labels) == 1)
        elif before == "(":
            labels[-1] = atom
        elif children[-1]:  # a word beside brackets
            return False
    return branches


def _count_outermost(atoms: Sequence[str]) -> int:
    """Return how many brackets stand in the outermost one."""
    depth = found = 0
    for atom in atoms:
        found += atom == "(" and depth == 1
        depth += (atom == "(") - (atom == ")")
    return found
