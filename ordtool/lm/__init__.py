"""The small Transformer: its configuration, its layers, and its training."""
