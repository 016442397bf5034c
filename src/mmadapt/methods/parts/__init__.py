"""What several methods share, one step below them."""
