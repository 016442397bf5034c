"""Every object of a run, from its configuration; behind this nobody sees the configuration."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything

from mmadapt.clip import ClipBackbone
from mmadapt.config.build import instantiate, locate
from mmadapt.config.identity import fingerprint
from mmadapt.config.targets import scored_sets
from mmadapt.config.trainer_options import is_debug
from mmadapt.data.base import FewShotData
from mmadapt.distributed import barrier
from mmadapt.features.encoder import FeatureEncoder, open_store
from mmadapt.methods.base import Method
from mmadapt.methods.transfer import Transfer, choose_classifier
from mmadapt.results import Classifier, RunKey
from mmadapt.training.checkpoint import Resume
from mmadapt.training.cost import Clock, reset_peak_memory
from mmadapt.training.feature_data import ResidentData
from mmadapt.training.image_data import ResidentImages

Resident = ResidentData | ResidentImages


@dataclass(frozen=True)
class Parts:
    """The objects of a run.

    Attributes:
        key: Identity of the run.
        method: The method, with the classes that it is trained on.
        resident: The features or images of these classes; test is locked.
        targets: The data of each scored set and how its classes are told apart, the one that is trained on first.
        trainer: The Lightning trainer.
        encoder: Encodes, and counts what had to be encoded.
        clock: Seconds of the phases so far.
        resume: Saves the training on the way; None if it is not wanted.
        callbacks: The user's own callbacks.
        confusion: Whether confusion matrices are stored.
        predictions: Whether the prediction of every image is stored.
        trains: Whether there are epochs to train; a training-free method has none.
        writes: Whether this process writes files: the main one does, of a run that is no debug run.
        started: Time of the start, seconds since 1970.
    """

    key: RunKey
    method: Method
    resident: Resident
    targets: Mapping[str, tuple[FewShotData, Classifier]]
    trainer: Trainer
    encoder: FeatureEncoder
    clock: Clock
    resume: Resume | None = None
    callbacks: Sequence[Callback] = ()
    confusion: bool = False
    predictions: bool = False
    trains: bool = True
    writes: bool = True
    started: float = field(default_factory=time.time)

    def resident_of(self, data: FewShotData) -> Resident:
        """Return the features or images of a set; see `resident`."""
        return (
            self.resident
            if data is self.resident.data
            else hold(self.method, data, self.encoder, self.resident.seed, self.resident.device)
        )


def build(config: Mapping[str, Any], key: RunKey, trainer: Trainer, coop_run: Path | None = None) -> Parts:
    """Build the objects of a run under its own seed.

    Args:
        config: Resolved configuration, as `mmadapt.config.schema.resolve` returns it.
        key: Identity of the run.
        trainer: The trainer of the run's folder, from `build_trainer`.
        coop_run: Folder of the CoOp run that the method builds on, if it does.

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
    live = {"clip": clip, "classes": source.classes, "text_features": encoder.text_features(source.classes)}
    node = {**config["method"], "coop_run": str(coop_run)} if coop_run else config["method"]
    method: Method = instantiate(node, "method", **live).to(device)
    classifiers = _classifiers(config, key, method.transfer, sets)
    callbacks = [
        instantiate(each, f"callbacks.{name}")
        for name, each in (config.get("callbacks") or {}).items()
        if each
    ]
    run_dir, every = Path(trainer.default_root_dir), config["checkpoint_seconds"]
    debug = bool(is_debug(config["trainer"]))
    resume = (
        None if every is None or debug else Resume(run_dir, fingerprint(config), source.drawn.sha256, every)
    )
    return Parts(
        key=key,
        method=method,
        resident=hold(method, source, encoder, config["seed"], device, validate=bool(callbacks)),
        targets={name: (data, classifiers[name]) for name, data in sets.items()},
        trainer=trainer,
        encoder=encoder,
        clock=clock,
        resume=resume,
        callbacks=callbacks,
        confusion=config["save_confusion"]
        or any(each and each.get("confusion_matrix") for each in (config["logger"] or {}).values()),
        predictions=config["save_predictions"] and not debug,
        trains=config["trainer"].get("max_epochs") != 0,  # fast_dev_run gives every trainer an epoch
        writes=trainer.is_global_zero and not debug,
        started=started,
    )


def hold(
    method: Method,
    data: FewShotData,
    encoder: FeatureEncoder,
    seed: int,
    device: torch.device,
    *,
    validate: bool = False,
) -> Resident:
    """Hold features in memory, or images for a method that changes the image tower.

    ``validate`` looks at val after each epoch, also where no epoch is chosen by it.
    """
    views = method.view_spec
    options: dict[str, Any] = {
        "batch_size": method.batch_size,
        "seed": seed,
        "device": device,
        "validate": validate or method.selection == "best_val",
    }
    if method.image_level:
        return ResidentImages(data, encoder.clip.transform, views.crop_scale, **options)
    return ResidentData(data, encoder, views, **options)


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
