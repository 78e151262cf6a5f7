"""The small Transformer that this library owns, and the masks that make it many models."""
