"""What one batch tells about a network."""
