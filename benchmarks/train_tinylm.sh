#!/bin/bash
# Trains the packaged tiny language model. Text: six books, the sentences of English EWT, the presidents' addresses and four
# files of open text, in a folder that ORDTOOL_DATA names; a seventh book, Sherlock Holmes, is held out. benchmarks/tinylm_text.py
# makes documents of it, some of which are worth looking back in. A card needs minutes, two cores a night. With --resume it
# goes on after an interruption; START names a model folder to begin with instead of random weights.
# benchmarks/pack_tinylm.py then rounds the weights to half precision.
set -eu
: "${ORDTOOL_DATA:=data}" "${OUTPUT:=tinylm}"
for part in text books open/english; do
  [ -d "$ORDTOOL_DATA/$part" ] || { echo "no $ORDTOOL_DATA/$part: set ORDTOOL_DATA" >&2; exit 1; }
done
# Large buffers stay in the process instead of going back to the system at every step (glibc).
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
texts=()
for book in greatexp middlemarch moby pride sheppard war-and-peace; do texts+=("$ORDTOOL_DATA/books/$book.txt"); done
for text in ewt state_union inaugural; do texts+=("$ORDTOOL_DATA/text/$text.txt"); done
for text in simplewiki voa-gmb oanc-berlitz gov-blogs; do texts+=("$ORDTOOL_DATA/open/english/$text.txt.gz"); done
[ -e "$OUTPUT.jsonl" ] || python "$(dirname "$0")/tinylm_text.py" "${texts[@]}" -o "$OUTPUT.jsonl" --words 20000000 --seed 1
shape=(--vocab-size 3072 --layers 4 --hidden 240 --heads 4)
[ -z "${START:-}" ] || shape=(--start "$START")
exec ordtool train lm "$OUTPUT.jsonl" --dev "$ORDTOOL_DATA/books/sherlock.txt" "${shape[@]}" --context 256 \
  --steps "${STEPS:-5000}" --batch-size 128 --learning-rate 0.003 --eval-every 1000 --bf16 \
  --seed 1 -o "$OUTPUT" "$@"
