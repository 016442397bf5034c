"""A method that notes who calls it, and breaks on the main process alone, of one seed."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from mmadapt.distributed import this_process
from mmadapt.methods.clip_adapter import ClipAdapter


class RankZeroFails(ClipAdapter):
    """CLIP-Adapter that raises on rank 0 of several where torch was seeded with ``bad_seed``."""

    def __init__(self, *args, bad_seed: int, **options):
        self.bad_seed = bad_seed
        super().__init__(*args, **options)

    def adapt(self, support, val):
        seed, (rank, world_size) = torch.initial_seed(), this_process()
        with Path(os.environ["RANK_NOTES"]).open("a") as stream:
            stream.write(f"{world_size} {seed} {rank}\n")
        if os.environ.get("LOCAL_RANK") == "0" and seed == self.bad_seed:
            raise RuntimeError("only the main process breaks")
