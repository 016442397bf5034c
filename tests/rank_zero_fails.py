"""A method that breaks on the main process alone, of one seed."""

from __future__ import annotations

import os

import torch

from mmadapt.methods.clip_adapter import ClipAdapter


class RankZeroFails(ClipAdapter):
    """CLIP-Adapter that raises on rank 0 where torch was seeded with ``bad_seed``."""

    def __init__(self, *args, bad_seed: int, **options):
        self.bad_seed = bad_seed
        super().__init__(*args, **options)

    def adapt(self, support, val):
        if os.environ.get("LOCAL_RANK") == "0" and torch.initial_seed() == self.bad_seed:
            raise RuntimeError("only the main process breaks")
