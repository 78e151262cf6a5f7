"""ON-LSTM language models: the network, its scan, and the distances that parsing reads."""
