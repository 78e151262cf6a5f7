"""Texts, pairs of texts or vectors to labels: what `ordtool predict` does, and `ordtool.predict`."""
