"""Which process of a run this is, told by the environment alone: known before torch is imported."""

from __future__ import annotations

import os

_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "RANK", "SLURM_PROCID")


def is_main_process() -> bool:
    """Return whether this process writes files and talks to the user."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)
