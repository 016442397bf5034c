"""Tables of result files."""
