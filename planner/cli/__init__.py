"""The command line: one module per command, one writer of standard output."""
