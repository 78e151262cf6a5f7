"""Writes the minimal pairs of `examples/agreement.jsonl`: sentences from templates, which differ in what must agree.

    python benchmarks/agreement_pairs.py > examples/agreement.jsonl

Nouns and verbs are common ones, so that small vocabularies know them. In each pair the word that is nearest would mislead:
nouns between subject and verb have the other number, and half of the subjects are singular.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Iterator

PEOPLE = [("doctor", "doctors"), ("teacher", "teachers"), ("farmer", "farmers"), ("lawyer", "lawyers")]
PEOPLE += [("student", "students"), ("officer", "officers"), ("author", "authors"), ("worker", "workers")]
THINGS = [("house", "houses"), ("school", "schools"), ("garden", "gardens"), ("road", "roads")]
THINGS += [("window", "windows"), ("tree", "trees"), ("table", "tables"), ("river", "rivers")]
BETWEEN = ["near", "behind", "beside", "by", "in front of", "across from"]
PREDICATES = [("is old", "are old"), ("was lost", "were lost"), ("has changed", "have changed")]
PREDICATES += [("is here", "are here"), ("was known to all", "were known to all"), ("has gone", "have gone")]
SEEN = ["saw", "knew", "found", "remembered", "heard", "followed"]
SEES = [("likes", "like"), ("knows", "know"), ("sees", "see"), ("wants", "want")]
HURT = ["hurt", "saw", "asked", "blamed", "taught", "found"]
EVER = ["has ever seen", "has ever found", "has ever used", "has ever wanted"]


def prepositional_phrase(draw: random.Random, number: int) -> tuple[str, str]:
    """The road near the houses is old."""
    subject, other = draw.choice(THINGS + PEOPLE)[number], draw.choice(THINGS)[1 - number]
    start = f"The {subject} {draw.choice(BETWEEN)} the {other}"
    verbs = draw.choice(PREDICATES)
    return f"{start} {verbs[number]}.", f"{start} {verbs[1 - number]}."


def subject_relative(draw: random.Random, number: int) -> tuple[str, str]:
    """The farmer that saw the teachers has gone."""
    subject, other = draw.choice(PEOPLE)[number], draw.choice(PEOPLE)[1 - number]
    start = f"The {subject} that {draw.choice(SEEN)} the {other}"
    verbs = draw.choice(PREDICATES)
    return f"{start} {verbs[number]}.", f"{start} {verbs[1 - number]}."


def object_relative(draw: random.Random, number: int) -> tuple[str, str]:
    """The house that the workers like is old."""
    subject, other = draw.choice(THINGS)[number], draw.choice(PEOPLE)[1 - number]
    start = f"The {subject} that the {other} {draw.choice(SEES)[number]}"
    verbs = draw.choice(PREDICATES)
    return f"{start} {verbs[number]}.", f"{start} {verbs[1 - number]}."


def coordination(draw: random.Random, number: int) -> tuple[str, str]:
    """The doctor and the lawyer are here; The doctor saw the lawyers and is here."""
    verbs = draw.choice(PREDICATES)
    if number:
        first, second = draw.sample(PEOPLE, 2)
        start = f"The {first[0]} and the {second[0]}"
    else:
        start = f"The {draw.choice(PEOPLE)[0]} {draw.choice(SEEN)} the {draw.choice(THINGS)[1]} and"
    return f"{start} {verbs[number]}.", f"{start} {verbs[1 - number]}."


def reflexive(draw: random.Random, number: int) -> tuple[str, str]:
    """The students near the author hurt themselves."""
    subject, other = draw.choice(PEOPLE)[number], draw.choice(PEOPLE)[1 - number]
    start = f"The {subject} {draw.choice(BETWEEN)} the {other} {draw.choice(HURT)}"
    right, wrong = ("themselves", "himself") if number else ("himself", "themselves")
    return f"{start} {right}.", f"{start} {wrong}."


def polarity(draw: random.Random, number: int) -> tuple[str, str]:
    """No teacher that the students knew has ever seen the river; "the teacher that no students knew" is wrong."""
    subject, other = draw.choice(PEOPLE)[0], draw.choice(PEOPLE)[number]
    end = f"{other} knew {draw.choice(EVER)} the {draw.choice(THINGS)[number]}."
    return f"No {subject} that the {end}", f"The {subject} that no {end}"


TYPES: dict[str, tuple[Callable[[random.Random, int], tuple[str, str]], int]] = {
    "prepositional phrase": (prepositional_phrase, 50),
    "subject relative clause": (subject_relative, 30),
    "object relative clause": (object_relative, 30),
    "coordination": (coordination, 30),
    "reflexive": (reflexive, 30),
    "negative polarity": (polarity, 30),
}


def pairs(seed: int = 0) -> Iterator[dict[str, str]]:
    """Yield the 200 pairs, none of them twice."""
    draw = random.Random(seed)
    for kind, (make, count) in TYPES.items():
        found: dict[str, str] = {}
        while len(found) < count:
            good, bad = make(draw, len(found) % 2)
            found.setdefault(good, bad)
        yield from ({"type": kind, "good": good, "bad": bad} for good, bad in found.items())


if __name__ == "__main__":
    sys.stdout.writelines(json.dumps(pair) + "\n" for pair in pairs())
