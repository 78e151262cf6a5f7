"""Text, JSONL and NPY in and out: the manners that every command shares."""
