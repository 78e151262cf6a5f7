"""Texts to vectors, and vectors to better vectors."""
