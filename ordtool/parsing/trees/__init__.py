"""Trees: builders, punctuation in them, treebanks, scoring and drawing."""
