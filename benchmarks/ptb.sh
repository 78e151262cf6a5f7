#!/bin/bash
# The experiment of the ordered-neurons paper (Shen et al. 2019, section 5.2): a language model of sections 02-21 of the Penn
# Treebank without their trees, with the paper's sizes and optimiser; after each epoch perplexity on section 22 and sentence F1
# of each layer on section 23, by the paper's builder. The reports steer nothing.
#
#   benchmarks/ptb.sh ~/treebank_3/parsed/mrg/wsj -o ptb [options of ordtool train parser]
#
# A thousand epochs take days on a GPU. Stop it when you like: --resume goes on, and ptb.training holds the last checkpoint.
# `benchmarks/ptb.sh WSJ -o small --recipe small --epochs 7` is the small recipe on the same text, in minutes an epoch.
set -eu
wsj=${1:?the folder that holds the sections 00 to 24}
shift
sections=()
for number in $(seq -w 2 21); do sections+=("$wsj/$number"); done
for folder in "${sections[@]}" "$wsj/22" "$wsj/23"; do
  [ -d "$folder" ] || { echo "no $folder: is $wsj the folder of the Wall Street Journal's sections?" >&2; exit 1; }
done
export MALLOC_MMAP_THRESHOLD_=2000000000 MALLOC_TRIM_THRESHOLD_=4000000000
exec ordtool train parser "${sections[@]}" --dev "$wsj/22" --treebank "$wsj/23" \
  --recipe paper --vocab-size 10000 --seed 1 "$@"
