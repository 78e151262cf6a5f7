"""Newspaper-like English that may train what ships: a sentence a line, shuffled.

    python benchmarks/news_text.py FOLDER > text.txt

FOLDER holds NAME.txt.gz of the names below, a sentence a line; of each a share of the sentences of 3 to 80 words is drawn
(seed 0), 8.2 million words in all.
"""

import gzip
import random
import sys
from pathlib import Path

SHARES = {
    "senate-releases": 0.3,
    "doj-releases": 0.36,
    "voa-gmb": 0.6,
    "wikipedia-business-politics": 0.33,
    "oanc-slate": 0.36,
    "beigebook": 0.27,
    "fed-speeches": 0.27,
    "wiki-currentevents": 0.6,
    "gov-blogs": 0.3,
    "oanc-government": 0.24,
}
"""More of what is nearer to newspapers."""

chance = random.Random(0)
lines = []
for name, share in SHARES.items():
    with gzip.open(Path(sys.argv[1]) / f"{name}.txt.gz", "rt", encoding="utf-8") as file:
        lines += [line for line in file if 3 <= line.count(" ") + 1 <= 80 and chance.random() < share]
chance.shuffle(lines)
sys.stdout.writelines(lines)
