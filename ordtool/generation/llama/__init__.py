"""The fast start: plain Llamas by torch alone. Without this folder everything is written by transformers."""
