"""The command line: one file a command, each a thin door to an engine."""
