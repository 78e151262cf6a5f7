#!/bin/bash
# Trains the packaged parser `english`, teachers first, into the folder OUTPUT (default: english-models): neural grammars on newspaper-like
# text of ORDTOOL_DATA (open/english), whose trees nobody shows them; what they think of the spans of SENTENCES sentences, the span
# scorer ONLSTM (spans1 of train_onlstm.sh) too if it is named; a span scorer that learns it. MASC's odd trees (treebanks/masc) steer
# nothing but the weights of punctuation. What is there already is not made again; an interrupted stage goes on.
# OUTPUT/seconds.txt has the seconds of each stage, OUTPUT/*.json the scores on MASC's even trees, GUM, CRAFT dev and test.
#
# SIZE=gpu (default) makes the grammars that ship, minutes of a GPU; SIZE=cpu one that is smaller and reads shorter sentences, an hour and
# a half of two cores in all. SEED is the seed of everything.
set -eu
: "${ORDTOOL_DATA:=data}" "${OUTPUT:=english-models}" "${DEVICE:=auto}" "${SEED:=1}" "${SIZE:=gpu}" "${WORKERS:=2}"
case $SIZE in # grammars: SEED:NONTERMINALS:PRETERMINALS:STATE and the weight of its vote
  gpu) : "${GRAMMARS:=$((SEED + 1)):1024:2048:256=1 $SEED:512:1024:384=0.5}" "${EPOCHS:=1.7}" "${SENTENCES:=44000}"
    text=(--vocab-size 12000 --max-length 40) ;;
  cpu) : "${GRAMMARS:=$SEED:1024:1024:256=1}" "${EPOCHS:=1.22}" "${SENTENCES:=15000}"
    text=(--vocab-size 8000 --max-length 20) ;;
  *) echo "SIZE is gpu or cpu, not $SIZE" >&2; exit 2 ;;
esac
banks="$ORDTOOL_DATA/treebanks"
for part in "$ORDTOOL_DATA/open/english" "$banks/masc/masc.mrg.gz"; do
  [ -e "$part" ] || { echo "no $part: set ORDTOOL_DATA" >&2; exit 1; }
done
# Large buffers stay in the process instead of going back to the system at every step (glibc).
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
mkdir -p "$OUTPUT"
here=$(dirname "$0")

stage() { # FILE COMMAND...: makes FILE unless it is there, and notes the seconds
  local file=$1 begun=$SECONDS; shift
  [ -e "$OUTPUT/$file" ] && return
  "$@"
  printf '%s\t%s\n' "$((SECONDS - begun))" "$file" >> "$OUTPUT/seconds.txt"
}
resume() { if [ -e "$OUTPUT/$1" ]; then echo --resume; fi; }
news() { python "$here/news_text.py" "$ORDTOOL_DATA/open/english" > "$OUTPUT/news.part" && mv "$OUTPUT/news.part" "$OUTPUT/news.txt"; }
trees() { gzip -dc "$banks/masc/masc.mrg.gz" | awk -v out="$OUTPUT" 'NR % 12 == 1 {print > out "/dev.mrg"} NR % 2 == 0 {print > out "/even.mrg"}'; }
grammar() { # NAME SEED NONTERMINALS PRETERMINALS STATE
  ordtool train parser "$OUTPUT/news.txt" --kind pcfg --layout sentences "${text[@]}" --nonterminals "$3" --preterminals "$4" \
    --state-size "$5" --batch-size 32 --epochs "$EPOCHS" --device "$DEVICE" --seed "$2" --treebank "$OUTPUT/dev.mrg" \
    --tune "$OUTPUT/dev.mrg" --half -o "$OUTPUT/$1" $(resume "$1.training/checkpoint.safetensors")
}
sentences() { # three newspaper sentences to two of other texts
  { head -n $((SENTENCES * 3 / 5)) "$OUTPUT/news.txt"
    python "$here/gold_text.py" "$ORDTOOL_DATA" | shuf --random-source=<(yes) | awk 'NF >= 5 && NF <= 40' |
      head -n $((SENTENCES - SENTENCES * 3 / 5)); } > "$OUTPUT/text.part"
  mv "$OUTPUT/text.part" "$OUTPUT/text.txt"
}
votes() {
  ordtool parse "$OUTPUT/text.txt" "${voters[@]}" --weights "$weights" --vote posteriors --posteriors --device "$DEVICE" \
    --workers "$WORKERS" -o "$OUTPUT/votes.jsonl" $(resume votes.jsonl.partial)
}
student() {
  ordtool train spans "$OUTPUT/votes.jsonl" --embedding 64 --hidden 256 --affixes --vocab-size 14000 --half --epochs 4 --lr 1.5e-3 \
    --holdout 0.01 --device "$DEVICE" --seed "$SEED" -o "$OUTPUT/student" $(resume student.training/checkpoint.safetensors)
}
score() { # MODEL TREES RESULT OPTIONS...
  ordtool parse "$2" -m "$OUTPUT/$1" --workers "$WORKERS" -o "$OUTPUT/parsed.jsonl" --force --quiet "${@:4}"
  ordtool score trees "$OUTPUT/parsed.jsonl" "$2" > "$OUTPUT/score.part" && mv "$OUTPUT/score.part" "$OUTPUT/$3"
}

stage news.txt news
stage even.mrg trees
voters=() weights=
for spec in $GRAMMARS; do
  IFS=:= read -r seed nonterminals preterminals state weight <<< "$spec"
  stage "pcfg$seed" grammar "pcfg$seed" "$seed" "$nonterminals" "$preterminals" "$state"
  voters+=(-m "$OUTPUT/pcfg$seed") weights+=${weights:+,}$weight
done
if [ -n "${ONLSTM:-}" ]; then voters+=(-m "$ONLSTM") weights+=,1; fi
stage text.txt sentences
stage votes.jsonl votes
stage student student
[ -e "$OUTPUT/english" ] || python "$here/pack_parser.py" "$OUTPUT/student" "$OUTPUT/english"

for bank in "$OUTPUT/even.mrg" "$banks/gum" "$banks/craft/dev" "$banks/craft/test"; do
  name=$(basename "$bank" .mrg)
  stage "$name.json" score english "$bank" "$name.json"
  stage "$name-words.json" score english "$bank" "$name-words.json" --no-punctuation
done
