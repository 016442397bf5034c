"""The published data sets, in the layouts people have them in."""
