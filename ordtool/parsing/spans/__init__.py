"""Span scorers: a small Transformer that learns trees from other parsers' trees."""
