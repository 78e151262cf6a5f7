#!/bin/bash
# Trains the packaged parser `english-gold` into the folder OUTPUT (default: english-gold-models) from gold trees and open text that a
# folder named by ORDTOOL_DATA holds: a strong parser on minilm, tuned on treebanks/craft/train (9,000 trees) and those of
# treebanks/masc/masc.mrg.gz with odd numbers (but every tenth of them, by which the threshold is chosen), three times; its trees, labels
# and probabilities over 60,000 sentences; then the small one, which learns both. Scores stand in OUTPUT/*.json. On one core of two
# that are shared: half an hour, 25 minutes, 35 minutes. What is there already is not made again; an interrupted training goes on.
set -eu
: "${ORDTOOL_DATA:=data}" "${OUTPUT:=english-gold-models}" "${DEVICE:=auto}" "${SEED:=1}" "${SENTENCES:=60000}"
banks="$ORDTOOL_DATA/treebanks"
for part in "$banks/craft/train" "$banks/masc/masc.mrg.gz" "$ORDTOOL_DATA/open/english"; do
  [ -e "$part" ] || { echo "no $part: set ORDTOOL_DATA" >&2; exit 1; }
done
here=$(dirname "$0")
mkdir -p "$OUTPUT"
draw() { shuf --random-source=<(yes) | head -n "$1"; }
resume() { if [ -e "$1.training/checkpoint.safetensors" ]; then echo --resume; fi; }
train() { # NAME TREES... OPTIONS...: a model in OUTPUT/NAME
  local name=$1; shift
  [ -d "$OUTPUT/$name" ] || ordtool train spans "$OUTPUT"/train.mrg "$OUTPUT"/train.mrg "$OUTPUT"/train.mrg "$OUTPUT/craft.mrg" "$@" \
    --device "$DEVICE" --half --seed "$SEED" -o "$OUTPUT/$name" $(resume "$OUTPUT/$name")
}
score() { # NAME TREES: its F1, printed
  ordtool parse "$2" -m "$OUTPUT/$1" --device "$DEVICE" -o "$OUTPUT/parsed.jsonl" --force --quiet
  ordtool score trees "$OUTPUT/parsed.jsonl" "$2" --labels | head -1
}

[ -e "$OUTPUT/train.mrg" ] || python "$here/odd_trees.py" "$banks/masc/masc.mrg.gz" "$OUTPUT"
[ -e "$OUTPUT/craft.mrg" ] || cat "$banks"/craft/train/* | draw 9000 > "$OUTPUT/craft.mrg"
[ -e "$OUTPUT/text.txt" ] || python "$here/gold_text.py" "$ORDTOOL_DATA" | draw "$SENTENCES" > "$OUTPUT/text.txt"
ordtool models pull minilm

train strong --encoder minilm --hidden 256 --layers 1 --batch-words 1024 --epochs 3 --learning-rate 7e-4 \
  --encoder-learning-rate 1e-4 --dropout 0.15 --holdout 0.01
[ -e "$OUTPUT/text.jsonl" ] || ordtool parse "$OUTPUT/text.txt" -m "$OUTPUT/strong" --tokenized --posteriors --device "$DEVICE" \
  -o "$OUTPUT/text.jsonl" $(if [ -e "$OUTPUT/text.jsonl.partial" ]; then echo --resume; fi)
train small "$OUTPUT/text.jsonl" --embedding 64 --hidden 256 --layers 3 --affixes --vocab-size 14000 --batch-words 2048 --epochs 2 \
  --learning-rate 1.6e-3 --dropout 0.1 --holdout 0.005

# The threshold of the packed model is the one with the largest sentence F1 on the development trees.
python "$here/pack_parser.py" "$OUTPUT/small" "$OUTPUT/english-gold" 15
best=$(for threshold in 0.25 0.3 0.35 0.4 0.45; do
  sed -i "s/\"threshold\": [0-9.]*/\"threshold\": $threshold/" "$OUTPUT/english-gold/config.json"
  echo "$(score english-gold "$OUTPUT/dev.mrg" | python -c 'import json, sys; print(json.load(sys.stdin)["sentence_f1"])') $threshold"
done | sort -g | tail -1 | cut -d' ' -f2)
sed -i "s/\"threshold\": [0-9.]*/\"threshold\": $best/" "$OUTPUT/english-gold/config.json"

for model in strong english-gold; do
  for part in "$OUTPUT/dev.mrg" "$OUTPUT/even.mrg" "$banks/craft/dev" "$banks/craft/test" "$banks/gum"; do
    result="$OUTPUT/$model-$(basename "$(dirname "$part")")-$(basename "$part" .mrg).json"
    [ -e "$result" ] || score $model "$part" > "$result"
  done
done
