"""Features of the frozen towers: encoded once, kept on disk."""
