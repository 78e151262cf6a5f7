"""Kinds of models that write: what is particular to each."""
