#!/bin/bash
# Trains the packaged English parser. Text: the open text described in ordtool/models/packaged/english/README.md,
# in a folder that ORDTOOL_DATA names: text/*.txt, books/*.txt and treebanks/craft/train (its words; its trees
# choose the layer and the builder at the end). With --resume it goes on after an interruption.
set -eu
: "${ORDTOOL_DATA:=../shared/data}"
for part in text books treebanks/craft/train; do
  [ -d "$ORDTOOL_DATA/$part" ] || { echo "no $ORDTOOL_DATA/$part: set ORDTOOL_DATA" >&2; exit 1; }
done
# Large buffers stay in the process instead of going back to the system at every step (glibc).
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
exec ordtool train parser \
  "$ORDTOOL_DATA"/text/*.txt "$ORDTOOL_DATA"/books/*.txt "$ORDTOOL_DATA"/treebanks/craft/train \
  --vocab-size 12000 --embedding 256 --hidden 512 --layers 3 --chunk 16 \
  --epochs 2.3 --batch-size 64 --window 35 --learning-rate 0.0025 --shards 2 \
  --seed 1 --half --tune "$ORDTOOL_DATA"/treebanks/craft/train -o "${OUTPUT:-english}" "$@"
