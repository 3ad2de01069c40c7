"""The domain: pure values and rules. No files, no clock, no network."""
