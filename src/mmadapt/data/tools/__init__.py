"""What ``python -m mmadapt.data`` does: list, check, prepare, draw."""
