"""The ladder: its side network, its configuration, and the models of ladder and backbone together."""
