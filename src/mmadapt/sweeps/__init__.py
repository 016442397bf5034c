"""Starts runs: sweeps, processes of their own, locks, devices, the dry run. Imports no torch."""
