"""One run: its objects from the configuration, fit, select, score."""
