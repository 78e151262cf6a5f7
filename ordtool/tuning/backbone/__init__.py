"""The frozen model that a ladder stands beside: its layers, its hidden states, and who records them."""
