"""Runs from outside: launch, ask, list, look at, report."""
