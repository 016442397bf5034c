"""Where the curves of a run go; none of them may cost it its result."""
