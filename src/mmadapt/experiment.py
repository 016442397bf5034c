"""One run from a resolved configuration: build, adapt, train, choose on val, then score every set once."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger

from mmadapt.callbacks import KeepBest, TrainProgress
from mmadapt.checkpoint import Resume
from mmadapt.clip import ClipBackbone
from mmadapt.config import instantiate, locate
from mmadapt.cost import Clock, peak_memory_mib, reset_peak_memory
from mmadapt.data.base import FewShotData
from mmadapt.data.resident import ResidentData
from mmadapt.data.resident_images import ResidentImages
from mmadapt.errors import UserError
from mmadapt.features import FeatureEncoder, FeatureSet, open_store
from mmadapt.identity import fingerprint
from mmadapt.methods.base import Method
from mmadapt.processes import all_processes, barrier, summed
from mmadapt.protocols import Transfer, choose_classifier, scored_sets
from mmadapt.provenance import provenance
from mmadapt.results import Classifier, Result, RunKey
from mmadapt.scoring import Scoreboard, classified, save_weights
from mmadapt.trainer import build_trainer
from mmadapt.trainer_options import is_debug


@dataclass
class Prepared:
    """A run whose method has seen its shots and is about to be trained.

    Attributes:
        config: The resolved configuration.
        key: Identity of the run.
        method: The method, after `adapt`.
        resident: Its features or images; shots and val are there, test is locked.
        sets: The data of each scored set, the one that is trained on first.
        classifiers: How the classes of each set are told apart.
        trainer: The Lightning trainer, not yet used.
        encoder: Counts what had to be encoded.
        clock: Seconds of the phases so far.
        started: Time of the start, seconds since 1970.
    """

    config: Mapping[str, Any]
    key: RunKey
    method: Method
    resident: ResidentData | ResidentImages
    sets: Mapping[str, FewShotData]
    classifiers: Mapping[str, Classifier]
    trainer: Trainer
    encoder: FeatureEncoder
    clock: Clock
    started: float

    @property
    def epochs(self) -> int:
        """Epochs to train; 0 for a training-free method."""
        if not self.method.uses_shots or self.config["trainer"].get("max_epochs") == 0:
            return 0  # also where fast_dev_run has given the trainer one
        return self.trainer.max_epochs or 0

    @property
    def debug(self) -> bool:
        """Whether nothing of it is to be written."""
        return bool(is_debug(self.config["trainer"]))


@dataclass(frozen=True)
class Trained:
    """What training chose.

    Attributes:
        epoch: The epoch whose weights were kept, counted from 1; 0 without training.
        val_top1: Its top-1 on val, if it was chosen by that.
        resumed: Interruptions after which training went on from a checkpoint.
        seconds_before: What training took before the last of them.
    """

    epoch: int
    val_top1: float | None = None
    resumed: int = 0
    seconds_before: float = 0.0


Shots = dict[str, tuple[FeatureSet, FeatureSet, dict[str, int]]]
"""Features of shots and val, and what was skipped, by what they depend on."""


def run(config: Mapping[str, Any], key: RunKey, run_dir: Path, loggers: Sequence[Logger] = ()) -> Result:
    """Run one experiment and return its result; the adapter's weights are written to ``run_dir``.

    A debug run (`mmadapt.trainer_options.is_debug`) writes nothing.

    Args:
        config: Resolved configuration, as `mmadapt.config.resolve` returns it.
        key: Identity of the run.
        run_dir: Folder of the run.
        loggers: Where the curves go, see `mmadapt.loggers`.

    Raises:
        UserError: If the configuration or the data cannot be used as they are.
    """
    trainer = build_trainer(config, run_dir, loggers)
    try:
        with all_processes(trainer):
            prepared = prepare(config, key, trainer)
            return finish(prepared, fit(prepared))
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses this run: {error}") from error


def prepare(config: Mapping[str, Any], key: RunKey, trainer: Trainer, shots: Shots | None = None) -> Prepared:
    """Build everything under the run's own seed and let the method see shots and val, up to training.

    Args:
        config: As for `run`.
        key: As for `run`.
        trainer: The trainer of the run's folder, from `build_trainer`.
        shots: Features that other runs of this process hold; what is missing is added. None shares nothing.

    Raises:
        UserError: If the configuration or the data cannot be used as they are.
    """
    started, clock = time.time(), Clock()
    seed_everything(config["seed"], workers=True, verbose=False)
    torch.set_float32_matmul_precision("highest")
    sets: dict[str, FewShotData] = {
        name: instantiate(node, "data") for name, node in scored_sets(config).items()
    }
    source = next(iter(sets.values()))
    device = trainer.strategy.root_device
    reset_peak_memory(device)
    if trainer.local_rank == 0:
        for data in sets.values():
            data.prepare_data()
    barrier()
    for data in sets.values():
        data.setup("fit")
    method_class: type[Method] = locate(config["method"]["_target_"], "method")
    _classifiers(config, key, method_class.transfer, sets)  # refuse at once what the class alone refuses
    clip = _backbone(json.dumps(config["clip"], sort_keys=True)).to(device)
    encoder = FeatureEncoder(clip, open_store(Path(config["paths"]["features"])))
    method: Method = instantiate(
        config["method"],
        "method",
        clip=clip,
        classes=source.classes,
        text_features=encoder.text_features(source.classes),
    ).to(device)
    classifiers = _classifiers(config, key, method.transfer, sets)
    resident = _resident(method, source, encoder, config["seed"], device)
    prepared = Prepared(config, key, method, resident, sets, classifiers, trainer, encoder, clock, started)
    if method.uses_shots:
        _adapt(prepared, {} if shots is None else shots)
    return prepared


def finish(prepared: Prepared, trained: Trained) -> Result:
    """Choose hyper-parameters on val, write the adapter's weights to the run's folder, score every set once."""
    config, method, clock = prepared.config, prepared.method, prepared.clock
    trainer, encoder, source = prepared.trainer, prepared.encoder, prepared.resident.data
    run_dir, device = Path(trainer.default_root_dir), trainer.strategy.root_device
    selection = _select(prepared, trained) if method.uses_shots else {"rule": "none"}
    writes = trainer.is_global_zero and not prepared.debug
    if writes:
        save_weights(method, run_dir)
    confusion = config["save_confusion"] or bool((config["logger"] or {}).get("confusion_matrix"))
    board = Scoreboard(
        trainer, confusion=confusion, predictions=config["save_predictions"] and not prepared.debug
    )
    skipped: dict[str, int] = {}
    for name, data in prepared.sets.items():  # from here on nothing is chosen any more
        data.open_test()
        resident = prepared.resident
        if data is not source:
            resident = _resident(method, data, encoder, config["seed"], device)
        judge, labels = classified(method, prepared.classifiers[name], source, data, encoder)
        board.add(name, judge, resident, prepared.classifiers[name], labels)
        skipped |= {name if kind == "test" else kind: count for kind, count in resident.skipped.items()}
    if writes:
        board.write(run_dir)
    clock.lap("eval_seconds")
    trainable = sum(p.numel() for p in method.trainable_parameters())
    return Result(
        key=prepared.key,
        scores=board.scores,
        selection=selection,
        data={**source.describe(), "test": sum(s.total for s in board.scores.values()), "skipped": skipped},
        cost={
            "trainable_params": trainable,
            **clock.seconds,
            "encoded": summed(encoder.encoded),
            "peak_memory_mib": peak_memory_mib(device),
            **({"resumed": trained.resumed} if trained.resumed else {}),
        },
        fingerprint=fingerprint(config),
        config=dict(config),
        provenance=provenance(device, prepared.started, trainer.world_size),
    )


def _resident(
    method: Method, data: FewShotData, encoder: FeatureEncoder, seed: int, device: torch.device
) -> ResidentData | ResidentImages:
    """Hold features in memory, or images for a method that changes the image tower."""
    validate = method.selection == "best_val"
    if method.image_level:
        return ResidentImages(
            data, encoder.clip.transform, method.view_spec.crop_scale, batch_size=method.batch_size, seed=seed,
            validate=validate, device=device,
        )  # fmt: skip
    return ResidentData(
        data, encoder, method.view_spec, batch_size=method.batch_size, seed=seed, validate=validate, device=device,
    )  # fmt: skip


def _adapt(prepared: Prepared, shots: Shots) -> None:
    """Let the method see the shots and val."""
    method, resident = prepared.method, prepared.resident
    method.run_dir = Path(prepared.trainer.default_root_dir)
    if isinstance(resident, ResidentData):
        node = {key: prepared.config[key] for key in ("data", "clip", "paths")}
        views = (method.view_spec.count, method.view_spec.crop_scale, str(resident.device))
        same = json.dumps([node, views], sort_keys=True)
        if same in shots:
            resident.support, resident.val, skipped = shots[same]
            resident.skipped.update(skipped)
        resident.setup("fit")
        shots[same] = resident.support, resident.val, dict(resident.skipped)
    else:
        resident.setup("fit")
    prepared.clock.lap("encode_seconds")
    if isinstance(resident, ResidentData):
        method.adapt(resident.support, resident.val)
    prepared.clock.lap("adapt_seconds")


def _select(prepared: Prepared, trained: Trained) -> dict[str, Any]:
    """Let the method choose its hyper-parameters; return how they and the epoch were chosen."""
    method, resident = prepared.method, prepared.resident
    prepared.clock.lap("train_seconds", before=trained.seconds_before)
    if isinstance(resident, ResidentData):
        method.search(resident.val)
    prepared.clock.lap("search_seconds")
    chosen = {} if trained.val_top1 is None else {"val_top1": trained.val_top1}
    if isinstance(resident, ResidentData) and len(resident.val.labels):
        chosen = {"val_top1": _val_top1(method, resident)}  # after the search: of what is scored
    return {"rule": method.selection, "epoch": trained.epoch, "tuned": dict(method.tuned), **chosen}


@torch.no_grad()
def _val_top1(method: Method, data: ResidentData) -> float:
    method.eval()
    predicted = torch.cat([method(rows).argmax(dim=1) for rows in data.val.image_features[0].split(1024)])
    return float((predicted == data.val.labels).float().mean())


def fit(prepared: Prepared) -> Trained:
    """Train one run by Lightning; methods without training are left as they are."""
    method, trainer = prepared.method, prepared.trainer
    if not prepared.epochs:
        return Trained(trainer.current_epoch)
    keep_best = KeepBest() if method.selection == "best_val" else None
    resume = _resume(prepared, keep_best)  # first: the others look at the epoch that it starts from
    callbacks = [resume, TrainProgress(), keep_best]
    trainer.callbacks += [each for each in callbacks if each is not None]  # type: ignore[attr-defined]
    trainer.fit(method, datamodule=prepared.resident)
    before = (resume.times, resume.seconds) if resume else (0, 0.0)
    if keep_best is None:
        return Trained(trainer.current_epoch, None, *before)
    keep_best.restore(method)
    return Trained(keep_best.epoch, keep_best.score, *before)


def _resume(prepared: Prepared, keep_best: KeepBest | None) -> Resume | None:
    every = prepared.config.get("checkpoint_seconds")
    if every is None or prepared.debug:
        return None
    run_dir, draw = Path(prepared.trainer.default_root_dir), prepared.resident.data.drawn.sha256
    return Resume(run_dir, fingerprint(prepared.config), draw, every, keep_best)


def _classifiers(
    config: Mapping[str, Any], key: RunKey, transfer: Transfer, sets: Mapping[str, FewShotData]
) -> dict[str, Classifier]:
    """Return which classifier each set gets; refuse a method where it is not defined."""
    own = next(iter(sets.values())).class_keys
    new_classes = config["protocol"].get("new_classes", "refuse")
    return {
        name: choose_classifier(key.method, transfer, own, data.class_keys, name, new_classes)
        for name, data in sets.items()
    }


@lru_cache(maxsize=2)
def _backbone(node: str) -> ClipBackbone:
    """Build a backbone once for all runs of a process."""
    backbone: ClipBackbone = instantiate(json.loads(node), "clip")
    return backbone
