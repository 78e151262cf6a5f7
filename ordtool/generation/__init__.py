"""Prompts to text: causal language models and encoder-decoders, batched."""
