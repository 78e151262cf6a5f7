#!/bin/bash
# Trains the packaged Chinese parser, `chinese`, into the folder OUTPUT (default: chinese-models): an ON-LSTM on open text, whose
# layer, builder, tilt and weights of marks are chosen on the phrases of UD Chinese GSD dev; then its trees over the same text; then a
# span scorer that learns them. About two hours on one core; EPOCHS=1 SHARE=3 is what the packaged model was made with, about (its
# card tells), in half an hour. What is there already is not made again; an interrupted training goes on.
# SOURCES holds a folder for each source that benchmarks/chinese_text.py names, and `gsd` and `pud`, the treebanks.
set -eu
: "${SOURCES:=../sources}" "${OUTPUT:=chinese-models}"
here=$(dirname "$0")
dev="$SOURCES/gsd/zh_gsd-ud-dev.conllu" test="$SOURCES/gsd/zh_gsd-ud-test.conllu" pud="$SOURCES/pud/zh_pud-ud-test.conllu"
for treebank in "$dev" "$test" "$pud"; do
  [ -e "$treebank" ] || { echo "no $treebank: set SOURCES" >&2; exit 1; }
done
# Large buffers stay in the process instead of going back to the system at every step (glibc).
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
mkdir -p "$OUTPUT"

resume() { if [ -e "$1.training/checkpoint.safetensors" ]; then echo --resume; fi; }

[ -d "$OUTPUT/text" ] ||
  python "$here/chinese_text.py" "$SOURCES" "$OUTPUT/text" --without "$dev" "$test" "$pud"
python "$here/ud_trees.py" "$dev" > "$OUTPUT/gsd-dev.mrg"
python "$here/ud_trees.py" "$test" > "$OUTPUT/gsd-test.mrg"
python "$here/ud_trees.py" "$pud" > "$OUTPUT/pud.mrg"

teacher="$OUTPUT/seed${SEED:=1}"
[ -d "$teacher" ] || ordtool train parser "$OUTPUT"/text/*.txt --tokens jieba --layout sentences \
  --vocab-size 12000 --embedding 256 --hidden 512 --layers 3 --chunk 16 \
  --epochs "${EPOCHS:-2}" --batch-size 32 --window 35 --learning-rate 0.002 --shards 1 \
  --seed "$SEED" --tune "$OUTPUT/gsd-dev.mrg" -o "$teacher" $(resume "$teacher")

[ -e "$OUTPUT/text.jsonl" ] || cat "$OUTPUT"/text/*.txt | awk -v share="${SHARE:-1}" 'NR % share == 0' |
  ordtool parse -m "$teacher" --input text --workers 2 -o "$OUTPUT/text.jsonl"

student="$OUTPUT/spans1"
[ -d "$student" ] || ordtool train spans "$OUTPUT/text.jsonl" --tokens jieba --embedding 64 --epochs "${SPAN_EPOCHS:-3}" \
  --half --seed 1 -o "$student" $(resume "$student")
