"""What owns one run: a process of its own, with the journal in its hands."""
