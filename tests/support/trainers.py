"""A trainer that says and stores nothing."""

from __future__ import annotations

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
         "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}  # fmt: skip
