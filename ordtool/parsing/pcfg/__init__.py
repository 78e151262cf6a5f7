"""Neural grammars whose rules draw the left and the right child independently."""
