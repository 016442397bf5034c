"""One run: build its objects, fit, select on val, then score every set once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from mmadapt.config.identity import fingerprint
from mmadapt.distributed import all_processes, summed
from mmadapt.errors import UserError
from mmadapt.methods.base import Method
from mmadapt.methods.parts.keep_best import KeepBest
from mmadapt.results import Result, RunKey
from mmadapt.runs.build import Parts, build
from mmadapt.runs.provenance import provenance
from mmadapt.runs.scoring import Scoreboard, classified, save_weights
from mmadapt.training import epoch_fit
from mmadapt.training.callbacks import Phases, TrainProgress
from mmadapt.training.cost import peak_memory_mib
from mmadapt.training.feature_data import ResidentData
from mmadapt.training.trainer import build_trainer


def run(
    config: Mapping[str, Any],
    key: RunKey,
    run_dir: Path,
    loggers: Sequence[Logger] = (),
    coop_run: Path | None = None,
) -> Result:
    """Run one experiment and return its result; the adapter's weights are written to ``run_dir``.

    A debug run (`mmadapt.config.trainer_options.is_debug`) writes nothing.

    Args:
        config: Resolved configuration, as `mmadapt.config.schema.resolve` returns it.
        key: Identity of the run.
        run_dir: Folder of the run.
        loggers: Where the curves go, see `mmadapt.loggers.guard`.
        coop_run: Folder of the CoOp run that the method builds on, if it does.

    Raises:
        UserError: If the configuration or the data cannot be used as they are.
    """
    trainer = build_trainer(config, run_dir, loggers)
    try:
        with all_processes(trainer):
            parts = build(config, key, trainer, coop_run)
            fit(parts)
            selection = select(parts)
            if parts.writes:
                save_weights(parts.method, run_dir)
            result = score(parts, selection)
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses this run: {error}") from error
    return replace(result, fingerprint=fingerprint(config), config=dict(config))


def fit(parts: Parts) -> None:
    """Let the method see its shots, train it, and let it choose its hyper-parameters on val."""
    method, trainer, clock = parts.method, parts.trainer, parts.clock
    if not method.uses_shots:
        return
    if parts.trains:
        callbacks = [Phases(clock), *parts.callbacks, TrainProgress()]
        textbook = bool(parts.callbacks or epoch_fit.needs_textbook(trainer))
        if parts.resume and not textbook:
            callbacks.insert(0, parts.resume)  # first: the others look at the epoch that it starts from
        trainer.callbacks += callbacks  # type: ignore[attr-defined]
        epoch_fit.fit(trainer, method, parts.resident, textbook=textbook)
        clock.seconds["train_seconds"] += parts.resume.seconds if parts.resume else 0.0
    else:  # nothing is trained; of several processes, Lightning refuses such a method
        parts.resident.setup("fit")
        clock.lap("encode_seconds")
        if isinstance(parts.resident, ResidentData):
            method.adapt(parts.resident.support, parts.resident.val_features)
            clock.lap("adapt_seconds")
            method.search(parts.resident.val_features)
    clock.lap("search_seconds")


def select(parts: Parts) -> dict[str, Any]:
    """Return how epoch and hyper-parameters were chosen, and the accuracy on val of what is scored."""
    method, resident = parts.method, parts.resident
    if not method.uses_shots:
        return {"rule": "none"}
    best = next((each for each in parts.trainer.callbacks if isinstance(each, KeepBest)), None)  # type: ignore[attr-defined]
    selection = {
        "rule": method.selection,
        "epoch": best.epoch if best else parts.trainer.current_epoch,
        "tuned": dict(method.tuned),
    }
    if isinstance(resident, ResidentData) and len(resident.val_features.labels):
        return {**selection, "val_top1": _val_top1(method, resident)}
    return {**selection, "val_top1": best.score} if best else selection


@torch.no_grad()
def _val_top1(method: Method, data: ResidentData) -> float:
    method.eval()
    features, labels = data.val_features
    predicted = torch.cat([method(rows).argmax(dim=1) for rows in features[0].split(1024)])
    return float((predicted == labels).float().mean())


def score(parts: Parts, selection: Mapping[str, Any]) -> Result:
    """Score every set once; from here on nothing is chosen any more."""
    method, trainer, source = parts.method, parts.trainer, parts.resident.data
    device = trainer.strategy.root_device
    board = Scoreboard(trainer, confusion=parts.confusion, predictions=parts.predictions)
    skipped: dict[str, int] = {}
    for name, (data, classifier) in parts.targets.items():
        resident = parts.resident_of(data)
        resident.setup("test")
        judge, labels = classified(method, classifier, source, data, parts.encoder)
        board.add(name, judge, resident, classifier, labels)
        skipped |= {name if kind == "test" else kind: count for kind, count in resident.skipped.items()}
    if parts.writes:
        board.write(Path(trainer.default_root_dir))
    parts.clock.lap("eval_seconds")
    resumed = parts.resume.times if parts.resume else 0
    return Result(
        key=parts.key,
        scores=board.scores,
        selection=dict(selection),
        data={**source.describe(), "test": sum(s.total for s in board.scores.values()), "skipped": skipped},
        cost={
            "trainable_params": sum(p.numel() for p in method.trainable_parameters()),
            **parts.clock.seconds,
            "encoded": summed(parts.encoder.encoded),
            "peak_memory_mib": peak_memory_mib(device),
            **({"resumed": resumed} if resumed else {}),
        },
        provenance=provenance(device, parts.started, trainer.world_size),
    )
