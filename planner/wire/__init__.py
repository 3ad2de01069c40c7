"""What scripts read: versioned documents, their models and published schemas."""
