#!/bin/bash
# Trains the packaged grammar `english-pcfg`, a smaller one, and the span scorer `english` that learns what both and a third voter think of
# spans, into the folder OUTPUT (default: english-models): text drawn from ORDTOOL_DATA (open/english, and a little of text and books);
# MASC's odd trees (treebanks/masc) are for development and steer nothing but the weights of punctuation and of votes. The grammars are
# minutes on a GPU, days without one; the votes and the student half an hour of a core. What is there already is not made again; an
# interrupted training goes on.
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

grammar() { # SEED NONTERMINALS STATE: a grammar in OUTPUT/pcfgSEED
  local model="$OUTPUT/pcfg$1"
  [ -d "$model" ] || ordtool train parser "$OUTPUT/news.txt" --kind pcfg --layout sentences --vocab-size 12000 \
    --nonterminals "$2" --preterminals $(($2 * 2)) --state-size "$3" --batch-size 32 --epochs 1.7 --device "$DEVICE" \
    --seed "$1" --treebank "$OUTPUT/dev.mrg" --tune "$OUTPUT/dev.mrg" --half -o "$model" $(resume "$model")
}
grammar 2 1024 256
grammar 1 512 384

# ONLSTM: a span scorer that learned from ON-LSTMs (spans1 of train_english.sh). The weights were chosen by benchmarks/voters.py.
voters=(-m "$OUTPUT/pcfg2" -m "$OUTPUT/pcfg1") weights=1,0.5
if [ -n "${ONLSTM:-}" ]; then voters+=(-m "$ONLSTM") weights=1,0.5,1; fi
[ -e "$OUTPUT/text.txt" ] || { head -n 26000 "$OUTPUT/news.txt"; python "$here/gold_text.py" "$ORDTOOL_DATA" | shuf --random-source=<(yes) |
  awk 'NF >= 5 && NF <= 40' | head -n 18000; } > "$OUTPUT/text.txt"
[ -e "$OUTPUT/votes.jsonl" ] || ordtool parse "$OUTPUT/text.txt" "${voters[@]}" --weights "$weights" --vote posteriors --posteriors \
  --device "$DEVICE" -o "$OUTPUT/votes.jsonl" $(if [ -e "$OUTPUT/votes.jsonl.partial" ]; then echo --resume; fi)

for seed in ${STUDENTS:-1}; do
  model="$OUTPUT/student$seed"
  [ -d "$model" ] || ordtool train spans "$OUTPUT/votes.jsonl" --embedding 64 --hidden 256 --affixes --vocab-size 14000 --half --epochs 4 --lr 1.5e-3 \
    --holdout 0.01 --device "$DEVICE" --seed "$seed" -o "$model" $(resume "$model")
  python "$here/pack_parser.py" "$model" "$OUTPUT/english$seed"
done
