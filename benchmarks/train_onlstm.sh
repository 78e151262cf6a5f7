#!/bin/bash
# Trains the packaged parser `english-onlstm`, and a span scorer that votes for `english` (train_english.sh), into the folder OUTPUT
# (default: english-models): ON-LSTMs of several seeds on the open text described on their cards, which a folder named by ORDTOOL_DATA
# holds (text/*.txt and treebanks/craft/train: its words; its trees choose layers, builder, tilt and marks at the end); then the trees of
# the two best seeds' vote over the same text; then a span scorer that learns them. About two hours on two cores. What is there already
# is not made again; an interrupted training goes on.
set -eu
: "${ORDTOOL_DATA:=data}" "${OUTPUT:=english-models}"
trees="$ORDTOOL_DATA/treebanks/craft/train"
for part in "$ORDTOOL_DATA/text" "$trees"; do
  [ -d "$part" ] || { echo "no $part: set ORDTOOL_DATA" >&2; exit 1; }
done
# Large buffers stay in the process instead of going back to the system at every step (glibc).
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
mkdir -p "$OUTPUT"

resume() { if [ -e "$1.training/checkpoint.safetensors" ]; then echo --resume; fi; }

for seed in ${SEEDS:-1 2 3 4}; do
  model="$OUTPUT/seed$seed"
  [ -d "$model" ] || ordtool train parser "$ORDTOOL_DATA"/text/*.txt "$trees" \
    --vocab-size 12000 --embedding 256 --hidden 512 --layers 3 --chunk 16 \
    --epochs 2 --batch-size 32 --window 35 --learning-rate 0.002 --shards 1 \
    --seed "$seed" --tune "$trees" -o "$model" $(resume "$model")
done

# The seeds that scored best on the development trees vote; a bad seed would hurt.
teachers=()
for seed in ${TEACHERS:-1 4}; do teachers+=(-m "$OUTPUT/seed$seed"); done
here=$(dirname "$0")
[ -e "$OUTPUT/text.jsonl" ] || python "$here/sentences.py" "$ORDTOOL_DATA"/text/*.txt |
  ordtool parse --tokenized "${teachers[@]}" --workers 2 -o "$OUTPUT/text.jsonl"
[ -e "$OUTPUT/craft.jsonl" ] || ordtool parse "$trees" "${teachers[@]}" --workers 2 -o "$OUTPUT/craft.jsonl"

for seed in ${STUDENTS:-1}; do
  model="$OUTPUT/spans$seed"
  [ -d "$model" ] || ordtool train spans "$OUTPUT/text.jsonl" "$OUTPUT/craft.jsonl" --embedding 64 \
    --half --seed "$seed" -o "$model" $(resume "$model")
done
