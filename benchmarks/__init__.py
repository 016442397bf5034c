"""One module per claim about speed or memory; run one with ``python -m benchmarks.NAME``."""
