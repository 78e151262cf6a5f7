"""Text to trees: ordered-neuron language models, tree builders, treebanks and scoring."""
