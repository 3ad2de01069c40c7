"""What a configuration costs per hour, from which source, and how old that is."""
