#!/bin/bash
# Trains the packaged grammar `english-pcfg`, and a span scorer that learns its probabilities of spans, into the folder OUTPUT
# (default: english-models): text drawn from ORDTOOL_DATA/open/english; MASC's odd trees (ORDTOOL_DATA/treebanks/masc) are for
# development and steer nothing but the weights of punctuation. Minutes on a GPU, days without one. What is there already is not
# made again; an interrupted training goes on.
set -eu
: "${ORDTOOL_DATA:=data}" "${OUTPUT:=english-models}" "${DEVICE:=auto}"
text="$ORDTOOL_DATA/open/english" trees="$ORDTOOL_DATA/treebanks/masc/masc.mrg.gz"
for part in "$text" "$trees"; do
  [ -e "$part" ] || { echo "no $part: set ORDTOOL_DATA" >&2; exit 1; }
done
mkdir -p "$OUTPUT"
here=$(dirname "$0")

resume() { if [ -e "$1.training/checkpoint.safetensors" ]; then echo --resume; fi; }

[ -e "$OUTPUT/news.txt" ] || python "$here/news_text.py" "$text" > "$OUTPUT/news.txt"
# Every sixth odd line.
[ -e "$OUTPUT/dev.mrg" ] || gzip -dc "$trees" | awk 'NR % 12 == 1' > "$OUTPUT/dev.mrg"

for seed in ${SEEDS:-2}; do
  model="$OUTPUT/pcfg$seed"
  [ -d "$model" ] || ordtool train parser "$OUTPUT/news.txt" --kind pcfg --layout sentences --vocab-size 12000 \
    --nonterminals 1024 --preterminals 2048 --state-size 256 --batch-size 32 --epochs 1.7 --device "$DEVICE" \
    --seed "$seed" --treebank "$OUTPUT/dev.mrg" --tune "$OUTPUT/dev.mrg" --half -o "$model" $(resume "$model")
done

teachers=()
for seed in ${TEACHERS:-2}; do teachers+=(-m "$OUTPUT/pcfg$seed"); done
[ -e "$OUTPUT/votes.jsonl" ] || head -n "${SENTENCES:-100000}" "$OUTPUT/news.txt" |
  ordtool parse "${teachers[@]}" --vote posteriors --posteriors --device "$DEVICE" --json -o "$OUTPUT/votes.jsonl"

for seed in ${STUDENTS:-1}; do
  model="$OUTPUT/student$seed"
  [ -d "$model" ] || ordtool train spans "$OUTPUT/votes.jsonl" --embedding 64 --affixes --half --epochs 4 --lr 1.5e-3 \
    --device "$DEVICE" --seed "$seed" -o "$model" $(resume "$model")
done
