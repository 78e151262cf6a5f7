"""Sources to targets: encoders that write under a mask, encoder-decoders, and their training."""
