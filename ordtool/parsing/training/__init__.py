"""Training of ON-LSTMs on plain text."""
