"""One page of results for a browser."""
