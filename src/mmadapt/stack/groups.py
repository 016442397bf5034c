"""Which jobs of a sweep may be trained together. Reads configurations; builds nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.utils import get_class

from mmadapt.runner import Job

_FREE_DATA = ("shots", "split_seed")
_FREE_TRAINER = ("max_epochs", "enable_progress_bar", "enable_checkpointing", "enable_model_summary")
_PLAIN_TRAINER = {"_target_", "accelerator", "devices", "strategy", "num_nodes", "precision", *_FREE_TRAINER}
_FULL_PRECISION = ("None", "32", "32-true")


def groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Divide jobs into groups for `run_stack`; a job that cannot be stacked is a group of its own.

    The jobs of a group share method class, CLIP, data set, protocol and trainer. They may differ in seed, shots,
    draw, epochs, tag and logger, and in every option of the method; `mmadapt.stack.train` then trains in step those
    whose steps have the same shapes and whose losses the same constants, that is, runs that differ in

    * seed, and with it initial weights, shots and batch order,
    * lr, weight_decay, momentum, dampening, betas and eps of SGD, Adam and AdamW,
    * the schedule and the number of epochs, selection and patience,
    * floating-point tensors of the method, such as α and β of a cache,

    and one after the other, on shared features, those that differ in the number of shots, batch size, optimiser
    class or another option, such as CLIP-Adapter's ratio.

    Args:
        jobs: Jobs of a sweep, in any order; the groups keep it.

    Raises:
        UserError: If a configuration makes no sense.
    """
    found: dict[str, list[Job]] = {}
    for number, job in enumerate(jobs):
        key = group_key(job.config) or f"job {number}"
        found.setdefault(key, []).append(job)
    return list(found.values())


def group_key(config: Mapping[str, Any]) -> str:
    """Return what the jobs of a group share, as text; empty for a job that cannot be stacked."""
    target, trainer = str(config["method"].get("_target_", "")), config["trainer"]
    if not target.startswith("mmadapt."):  # what else may be built is checked elsewhere
        return ""
    plain = trainer.keys() <= _PLAIN_TRAINER and str(trainer.get("precision")) in _FULL_PRECISION
    if not plain or not getattr(get_class(target), "stackable", False):
        return ""
    shared = {
        "method": target,
        "clip": config["clip"],
        "data": _common(config["data"]),
        "protocol": {key: value for key, value in config["protocol"].items() if key != "sets"},
        "sets": {name: _common(node) for name, node in config["protocol"].get("sets", {}).items()},
        "trainer": {key: value for key, value in trainer.items() if key not in _FREE_TRAINER},
        "features": config["paths"]["features"],
    }
    return json.dumps(shared, sort_keys=True)


def _common(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key not in _FREE_DATA}
