#!/bin/bash
# Trains the packaged parser `english-gold` into the folder OUTPUT (default: english-gold-models) from gold trees that a folder named
# by ORDTOOL_DATA holds: treebanks/craft/train, and the trees of treebanks/masc/masc.mrg.gz with odd numbers (but every tenth of them,
# by which the threshold is chosen), three times. Scores stand in OUTPUT/*.json. Half an hour on two cores.
# STRONG=1 also trains a strong parser on minilm, and small ones that learn from the same trees and from what the strong one makes of
# 3.9M tokens of open text (DEVICE=cuda: some minutes; on two cores some hours). What is there already is not made again; an
# interrupted training goes on.
set -eu
: "${ORDTOOL_DATA:=data}" "${OUTPUT:=english-gold-models}" "${DEVICE:=auto}"
banks="$ORDTOOL_DATA/treebanks"
for part in "$banks/craft/train" "$banks/masc/masc.mrg.gz" ${STRONG:+"$ORDTOOL_DATA/open/english"}; do
  [ -e "$part" ] || { echo "no $part: set ORDTOOL_DATA" >&2; exit 1; }
done
here=$(dirname "$0")
mkdir -p "$OUTPUT"

resume() { if [ -e "$1.training/checkpoint.safetensors" ]; then echo --resume; fi; }
train() { # NAME OPTIONS...: a model in OUTPUT/NAME
  local name=$1; shift
  [ -d "$OUTPUT/$name" ] || ordtool train spans "$OUTPUT"/train.mrg "$OUTPUT"/train.mrg "$OUTPUT"/train.mrg "$banks/craft/train" \
    --device "$DEVICE" --holdout 0.01 --dropout 0.15 "$@" -o "$OUTPUT/$name" $(resume "$OUTPUT/$name")
}
score() { # NAME: its F1 on each part
  for part in "$OUTPUT/dev.mrg" "$OUTPUT/even.mrg" "$banks/craft/dev" "$banks/craft/test" "$banks/gum"; do
    local result="$OUTPUT/$1-$(basename "$(dirname "$part")")-$(basename "$part" .mrg).json"
    [ -e "$result" ] && continue
    ordtool parse "$part" -m "$OUTPUT/$1" --device "$DEVICE" -o "$OUTPUT/parsed.jsonl" --force
    ordtool score trees "$OUTPUT/parsed.jsonl" "$part" --labels -o "$result"
  done
}

[ -e "$OUTPUT/train.mrg" ] || python "$here/odd_trees.py" "$banks/masc/masc.mrg.gz" "$OUTPUT"
small="--embedding 64 --hidden 256 --layers 3 --affixes --half"
train english-gold $small --epochs 2 --seed 1
models=english-gold
if [ -n "${STRONG:-}" ]; then
  [ -e "$OUTPUT/text.txt" ] || python "$here/gold_text.py" "$ORDTOOL_DATA" | shuf --random-source=<(yes) | head -165000 > "$OUTPUT/text.txt"
  ordtool models pull minilm
  train strong --encoder minilm --hidden 256 --layers 1 --batch-words 4096 --epochs 5 --learning-rate 1e-3 \
    --encoder-learning-rate 1.5e-4 --half --seed 1
  for seed in ${SEEDS:-1 2}; do
    train "small$seed" $small --teacher "$OUTPUT/strong" --text "$OUTPUT/text.txt" --text-tokens whitespace --vocab-size 14000 \
      --batch-words 8192 --epochs "${EPOCHS:-5}" --learning-rate 2e-3 --seed "$seed"
    models="$models small$seed"
  done
  models="$models strong"
fi
for model in $models; do score "$model"; done
