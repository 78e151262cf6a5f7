#!/bin/bash
# A parser of a language without a packaged model, from raw text: German, into the folder OUTPUT (default: german-parser).
# The text is what Debian's German manuals say (debian-handbook CC BY-SA 3.0, the others GPL), about 220,000 words; the folder named by
# UD holds UD German GSD (CC BY-SA 4.0), whose dev part chooses layers and builder and whose test part is read once, for the figures.
# About half an hour on one core. What is there already is not made again; an interrupted training goes on.
set -eu
: "${UD:=UD_German-GSD}" "${OUTPUT:=german-parser}"
for part in dev test; do
  [ -e "$UD/de_gsd-ud-$part.conllu" ] || { echo "no $UD/de_gsd-ud-$part.conllu: set UD to a checkout of UD_German-GSD" >&2; exit 1; }
done
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$OUTPUT"

if [ ! -e "$OUTPUT/text.txt" ]; then
  mkdir -p "$OUTPUT/packages"
  (cd "$OUTPUT/packages" && apt-get download debian-handbook debian-faq-de installation-guide-amd64 &&
    for package in *.deb; do dpkg -x "$package" .; done)
  docs="$OUTPUT/packages/usr/share/doc"
  python "$here/html_text.py" "$docs/debian-handbook/html/de-DE" "$docs/debian/FAQ/de" "$docs/installation-guide-amd64/de" \
    --without the,of,and,to,is > "$OUTPUT/text.txt"
fi
for part in dev test; do
  [ -e "$OUTPUT/$part.mrg" ] || python "$here/ud_trees.py" "$UD/de_gsd-ud-$part.conllu" > "$OUTPUT/$part.mrg"
done
[ -d "$OUTPUT/german" ] || ordtool train parser "$OUTPUT/text.txt" --language de --layout paragraphs --vocab-size 8000 --epochs 10 \
  --treebank "$OUTPUT/dev.mrg" --tune "$OUTPUT/dev.mrg" --half -o "$OUTPUT/german" \
  $(if [ -e "$OUTPUT/german.training/checkpoint.safetensors" ]; then echo --resume; fi)
for options in "" --no-punctuation; do
  ordtool parse "$OUTPUT/test.mrg" -m "$OUTPUT/german" $options -o "$OUTPUT/parsed.jsonl" --force
  ordtool score trees "$OUTPUT/parsed.jsonl" "$OUTPUT/test.mrg"
done
