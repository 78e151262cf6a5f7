#!/bin/bash
# Trains the packaged tiny language model. Text: six books, the sentences of English EWT and the presidents' addresses, in a
# folder that ORDTOOL_DATA names; a seventh book, Sherlock Holmes, is held out. With --resume it goes on after an interruption.
# benchmarks/pack_tinylm.py then rounds the weights to half precision.
set -eu
: "${ORDTOOL_DATA:=data}"
for part in text books; do
  [ -d "$ORDTOOL_DATA/$part" ] || { echo "no $ORDTOOL_DATA/$part: set ORDTOOL_DATA" >&2; exit 1; }
done
# Large buffers stay in the process instead of going back to the system at every step (glibc).
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
texts=()
for book in greatexp middlemarch moby pride sheppard war-and-peace; do texts+=("$ORDTOOL_DATA/books/$book.txt"); done
for text in ewt state_union inaugural; do texts+=("$ORDTOOL_DATA/text/$text.txt"); done
exec ordtool train lm "${texts[@]}" --valid "$ORDTOOL_DATA/books/sherlock.txt" \
  --vocab-size 3072 --context 256 --layers 4 --hidden 192 --heads 4 \
  --steps "${STEPS:-3600}" --batch-size 8 --learning-rate 0.003 --eval-every 600 --bf16 \
  --seed 1 -o "${OUTPUT:-tinylm}" "$@"
