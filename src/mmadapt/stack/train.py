"""Training of several runs at once, with what each run needs after an epoch: its loss checked, its best kept."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

import torch

from mmadapt.callbacks import KeepBest
from mmadapt.errors import UserError
from mmadapt.progress import ProgressBar
from mmadapt.results import Score
from mmadapt.stack.lane import Lane, Run, lane_key, obstacle

CACHE_BYTES = 8 * 2**20
"""On a CPU, runs are trained in blocks whose weights and optimiser states stay in its cache."""


def train(runs: Sequence[Run], block: int | None = None) -> None:
    """Train runs together and leave the learned weights, and what became of each, in the runs.

    Runs that take steps of the same shapes are trained in step, whatever their seeds, learning rates and weight
    decays; others, as those of another number of shots, one group after the other. A run gets the batches,
    rates and number of steps that it gets alone, so its weights differ by rounding only. A run whose loss
    stops being a number fails alone, in its `Run.error`.

    Args:
        runs: The runs, in any mixture.
        block: Runs trained in step at most; None chooses by device and size.

    Raises:
        UserError: If a method cannot be stacked.
    """
    lanes: dict[Hashable, list[Run]] = {}
    for run in runs:
        if reason := obstacle(run.method):
            raise UserError(f"This run cannot be trained in a stack: {reason}. Use launch.stack=false.")
        if run.epochs:
            lanes.setdefault(lane_key(run), []).append(run)
    for lane in lanes.values():
        lane.sort(key=lambda run: run.data.support.image_features.data_ptr())  # one gather for neighbours
        size = block or block_size(lane)
        for start in range(0, len(lane), size):
            _train_block(lane[start : start + size], len(lane))


def block_size(runs: Sequence[Run]) -> int:
    """Return how many runs to train in step: all on a GPU, as many as fit the cache on a CPU."""
    method = runs[0].method
    if runs[0].data.support.image_features.device.type != "cpu":
        return len(runs)
    own = 4 * sum(p.numel() for p in method.trainable_parameters()) * 3
    least = 1 if method.stacked_gradients() else 8
    return max(least, CACHE_BYTES // max(own, 1))


def _train_block(runs: Sequence[Run], stacked: int) -> None:
    start = time.perf_counter()
    bar = ProgressBar(
        f"training {len(runs)} {type(runs[0].method).__name__} (epochs)", max(r.epochs for r in runs)
    )
    keepers = {id(run): KeepBest() for run in runs if run.method.selection == "best_val"}
    lane = Lane(runs)
    try:
        while lane.runs:
            means = lane.epoch(lane.runs[0].trained).tolist()
            going = [
                position
                for position, (run, mean) in enumerate(zip(lane.runs, means, strict=True))
                if _goes_on(run, mean, keepers.get(id(run)))
            ]
            if len(going) < len(lane.runs):
                lane.keep(going)
            bar.advance()
    finally:
        bar.close()
    for run in runs:
        keeper = keepers.get(id(run))
        if keeper is not None and run.error is None:
            keeper.restore(run.method)
            run.best = keeper.epoch, keeper.score
    seconds, epochs = time.perf_counter() - start, sum(run.trained for run in runs)
    for run in runs:
        run.seconds, run.stacked = seconds * run.trained / epochs, stacked


def _goes_on(run: Run, mean: float, keeper: KeepBest | None) -> bool:
    """Do what follows an epoch of a run; return whether it has another."""
    run.trained += 1
    stop = False
    try:
        run.method.check_loss(mean, run.trained)
        logged = {"train/loss": mean}
        if keeper is not None:
            score = validate(run)
            top1 = torch.tensor(score.top1).item()  # single precision, as Lightning holds what is logged
            keeper.consider(run.trained, top1, run.method)
            logged |= {f"val/{key}": getattr(score, key) for key in ("top1", "top1_macro", "nll", "ece")}
            stop = run.method.is_enough(score.top1)
        run.history.append(logged)
    except UserError as error:
        run.error = error
        return False
    return not stop and run.trained < run.epochs


@torch.no_grad()
def validate(run: Run) -> Score:
    """Return the scores of a run's present weights on val."""
    method = run.method.eval()
    try:
        for features, labels in run.data.val_dataloader():
            method.scorer.update(method(features), labels)
        score = method.scorer.compute()
    finally:
        method.scorer.reset()
        method.train()
    return score
