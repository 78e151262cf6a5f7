"""Text as `ordtool train parser` reads it, punctuation kept: a sentence a line, its tokens apart.

python benchmarks/sentences.py TEXT... | ordtool parse --tokenized -m A -m B -o trees.jsonl
"""

import sys

from ordtool.parsing.text.reader import TextConfig, read_sentences

for words in read_sentences(sys.argv[1:], TextConfig(punctuation=True)):
    print(*words)
