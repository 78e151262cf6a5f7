"""Names to files: what `--model` can name, where it comes from, and how it gets here."""
