"""What people write: job files and settings, checked at the edge."""
