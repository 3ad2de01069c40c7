"""What is kept: journals as the truth, SQLite as an index that can be rebuilt."""
