"""The fast start: plain Llamas by torch alone. Only `TextGenerator` asks for it; without it transformers does the same."""
