#!/bin/bash
# Trains the packaged parser `chinese` into the folder OUTPUT (default: chinese-models). A multilingual encoder, e5-multilingual, learns
# English trees (treebanks/masc: those with odd numbers; treebanks/craft/train: 2,000) and, five times over, the phrases of 400 sentences
# of UD Chinese GSD dev; its embeddings and first two layers stay as they are. It parses Chinese text (open/chinese), and a small span
# scorer learns its probabilities beside those 400. The threshold is chosen on the other 100. On one core of two that others share:
# 17 minutes, 20 minutes, half an hour. What is there already is not made again; an interrupted training goes on.
# ORDTOOL_DATA is the folder of the texts and treebanks above, TREEBANKS that of zh_gsd-ud-{dev,test}.conllu and zh_pud-ud-test.conllu.
set -eu
: "${ORDTOOL_DATA:=data}" "${TREEBANKS:=$ORDTOOL_DATA/ud}" "${OUTPUT:=chinese-models}" "${DEVICE:=auto}" "${SEED:=1}" "${SENTENCES:=32000}"
banks="$ORDTOOL_DATA/treebanks"
for part in "$banks/craft/train" "$banks/masc/masc.mrg.gz" "$ORDTOOL_DATA/open/chinese" "$TREEBANKS/zh_gsd-ud-dev.conllu"; do
  [ -e "$part" ] || { echo "no $part: set ORDTOOL_DATA and TREEBANKS" >&2; exit 1; }
done
here=$(dirname "$0")
mkdir -p "$OUTPUT"
draw() { shuf --random-source=<(yes) | head -n "$1"; }
resume() { if [ -e "$1.training/checkpoint.safetensors" ]; then echo --resume; fi; }
train() { # NAME TREES... OPTIONS...: a model in OUTPUT/NAME
  local name=$1; shift
  [ -d "$OUTPUT/$name" ] || ordtool train spans "$@" --device "$DEVICE" --half --seed "$SEED" -o "$OUTPUT/$name" $(resume "$OUTPUT/$name")
}
score() { # NAME TREES OPTIONS...: its F1, printed
  ordtool parse "$2" -m "$OUTPUT/$1" --device "$DEVICE" -o "$OUTPUT/parsed.jsonl" --force --quiet "${@:3}"
  ordtool score trees "$OUTPUT/parsed.jsonl" "$2" | head -1
}

[ -e "$OUTPUT/train.mrg" ] || python "$here/odd_trees.py" "$banks/masc/masc.mrg.gz" "$OUTPUT"
[ -e "$OUTPUT/craft.mrg" ] || cat "$banks"/craft/train/* | draw 9000 | head -n 2000 > "$OUTPUT/craft.mrg"
for part in gsd-ud-dev gsd-ud-test pud-ud-test; do
  [ -e "$OUTPUT/$part.mrg" ] || python "$here/ud_trees.py" "$TREEBANKS/zh_$part.conllu" > "$OUTPUT/$part.mrg"
done
# Four of five to learn from, every fifth to choose by.
awk 'NR % 5 == 0' "$OUTPUT/gsd-ud-dev.mrg" > "$OUTPUT/dev.mrg"
awk 'NR % 5 != 0' "$OUTPUT/gsd-ud-dev.mrg" | python "$here/chinese_trees.py" --unlabelled > "$OUTPUT/few.jsonl"
[ -e "$OUTPUT/text.txt" ] || python "$here/chinese_text.py" "$ORDTOOL_DATA" --without "$TREEBANKS"/zh_*.conllu | draw "$SENTENCES" > "$OUTPUT/text.txt"
ordtool models pull e5-multilingual

english="$OUTPUT/train.mrg" few="$OUTPUT/few.jsonl"
train teacher "$english" "$english" "$OUTPUT/craft.mrg" "$few" "$few" "$few" "$few" "$few" --encoder e5-multilingual --frozen-layers 2 \
  --hidden 256 --layers 1 --batch-words 1024 --epochs 2 --learning-rate 7e-4 --encoder-learning-rate 1.5e-4 --dropout 0.15 --holdout 0.01
[ -e "$OUTPUT/text.jsonl" ] || ordtool parse "$OUTPUT/text.txt" -m "$OUTPUT/teacher" --tokenized --posteriors --device "$DEVICE" \
  -o "$OUTPUT/text.jsonl" $(if [ -e "$OUTPUT/text.jsonl.partial" ]; then echo --resume; fi)
[ -e "$OUTPUT/lessons.jsonl" ] || python "$here/chinese_trees.py" "$OUTPUT/text.jsonl" > "$OUTPUT/lessons.jsonl"
lessons="$OUTPUT/lessons.jsonl"
train small "$lessons" "$few" "$few" "$few" "$few" "$few" --tokens jieba --flat --embedding 64 --hidden 256 --affixes --vocab-size 14000 \
  --epochs 3 --learning-rate 1.5e-3 --batch-words 1024 --holdout 0.005

python "$here/pack_parser.py" "$OUTPUT/small" "$OUTPUT/chinese"
for model in teacher chinese; do
  best=$(for threshold in 0.15 0.2 0.25 0.3 0.35 0.4; do
    sed -i "s/\"threshold\": [0-9.]*/\"threshold\": $threshold/" "$OUTPUT/$model/config.json"
    echo "$(score $model "$OUTPUT/dev.mrg" | python -c 'import json, sys; print(json.load(sys.stdin)["sentence_f1"])') $threshold"
  done | sort -g | tail -1 | cut -d' ' -f2)
  sed -i "s/\"threshold\": [0-9.]*/\"threshold\": $best/" "$OUTPUT/$model/config.json"
  for part in gsd-ud-test pud-ud-test; do
    result="$OUTPUT/$model-$part.json"
    [ -e "$result" ] || { score $model "$OUTPUT/$part.mrg" && score $model "$OUTPUT/$part.mrg" --no-punctuation; } > "$result"
  done
done
