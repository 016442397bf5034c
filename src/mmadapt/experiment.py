"""One run from a resolved configuration: build, adapt, train, choose on val, score once on test."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from safetensors.torch import save_file

from mmadapt.callbacks import KeepBest, TrainProgress
from mmadapt.clip import ClipBackbone
from mmadapt.config import fingerprint, instantiate
from mmadapt.data.base import FewShotData
from mmadapt.data.resident import ResidentData
from mmadapt.data.resident_images import ResidentImages
from mmadapt.errors import UserError
from mmadapt.features import FeatureEncoder, open_store
from mmadapt.methods.base import Method
from mmadapt.provenance import peak_memory_mib, provenance
from mmadapt.results import Result, RunKey

log = logging.getLogger(__name__)

WEIGHTS_FILE = "adapter.safetensors"
_LIVE_TRAINER = (
    "callbacks",
    "logger",
    "default_root_dir",
    "enable_checkpointing",
    "enable_model_summary",
    "use_distributed_sampler",
)


def run(config: Mapping[str, Any], key: RunKey, run_dir: Path, loggers: Sequence[Logger] = ()) -> Result:
    """Run one experiment and return its result; the adapter's weights are written to ``run_dir``.

    Args:
        config: Resolved configuration, as `mmadapt.config.resolve` returns it.
        key: Identity of the run.
        run_dir: Folder of the run.
        loggers: Where the curves go, see `mmadapt.loggers`.

    Raises:
        UserError: If the configuration or the data cannot be used as they are.
    """
    started, clock = time.time(), _Clock()
    _quiet()
    seed_everything(config["seed"], workers=True, verbose=False)
    torch.set_float32_matmul_precision("highest")
    data: FewShotData = instantiate(config["data"], "data")
    trainer = _trainer(config, run_dir, loggers)
    device = trainer.strategy.root_device
    data.prepare_data()
    data.setup("fit")
    clip = _backbone(json.dumps(config["clip"], sort_keys=True)).to(device)
    encoder = FeatureEncoder(clip, open_store(Path(config["paths"]["features"])))
    method: Method = instantiate(
        config["method"],
        "method",
        clip=clip,
        classes=data.classes,
        text_features=encoder.text_features(data.classes),
    ).to(device)
    resident = _resident(method, data, encoder, config["seed"], device)
    selection = _adapt(method, resident, trainer, clock) if method.uses_shots else {"rule": "none"}
    data.open_test()  # from here on nothing is chosen any more
    trainer.test(method, datamodule=_TestOnly(resident), verbose=False)
    clock.lap("eval_seconds")
    _save_weights(method, run_dir)
    trainable = sum(p.numel() for p in method.trainable_parameters())
    return Result(
        key=key,
        scores={"test": method.final_score},
        selection=selection,
        data={**data.describe(), "test": method.final_score.total, "skipped": resident.skipped},
        cost={
            "trainable_params": trainable,
            **clock.seconds,
            "encoded": encoder.encoded,
            "peak_memory_mib": peak_memory_mib(device),
        },
        fingerprint=fingerprint(config),
        config=dict(config),
        provenance=provenance(device, started, trainer.world_size),
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


def _adapt(
    method: Method, data: ResidentData | ResidentImages, trainer: Trainer, clock: _Clock
) -> dict[str, Any]:
    """Let the method see the shots and val; return how its epoch and hyper-parameters were chosen."""
    method.run_dir = Path(trainer.default_root_dir)
    data.setup("fit")
    clock.lap("encode_seconds")
    if isinstance(data, ResidentData):
        method.adapt(data.support, data.val)
    clock.lap("adapt_seconds")
    keep_best = _fit(trainer, method, data)
    clock.lap("train_seconds")
    if isinstance(data, ResidentData):
        method.search(data.val)
    clock.lap("search_seconds")
    selection = {"rule": method.selection, "epoch": trainer.current_epoch, "tuned": dict(method.tuned)}
    return (
        selection
        if keep_best is None
        else {**selection, "epoch": keep_best.epoch, "val_top1": keep_best.score}
    )


def _fit(trainer: Trainer, method: Method, data: LightningDataModule) -> KeepBest | None:
    if not trainer.max_epochs:
        return None
    keep_best = KeepBest() if method.selection == "best_val" else None
    trainer.callbacks += [TrainProgress(), *([keep_best] if keep_best else [])]  # type: ignore[attr-defined]
    trainer.fit(method, datamodule=data)
    if keep_best is not None:
        keep_best.restore(method)
    return keep_best


class _TestOnly(LightningDataModule):
    """Hands the unlocked test batches to ``Trainer.test`` and nothing else."""

    def __init__(self, data: ResidentData | ResidentImages) -> None:
        super().__init__()
        self._data = data

    def test_dataloader(self) -> Any:
        return self._data.test_dataloader()


def _trainer(config: Mapping[str, Any], run_dir: Path, loggers: Sequence[Logger]) -> Trainer:
    node = {"log_every_n_steps": 1, **config["trainer"]}  # a step is an epoch
    for key in _LIVE_TRAINER:
        if key in node:
            raise UserError(f"trainer.{key} is set by mmadapt itself; remove it.")
    if node.get("max_steps", -1) != -1 or node.get("max_time") is not None:
        raise UserError(
            "trainer.max_steps and max_time do not apply: one Lightning step is one epoch here. Use method.epochs."
        )
    precision = str(node.get("precision", ""))
    if precision in ("16-true", "bf16-true"):
        name = precision.removesuffix("-true")
        raise UserError(
            f"trainer.precision={precision} would store what is learned in 16 bits, too few for small learning rates. "
            f"Use clip.precision={'fp16' if name == '16' else name} or trainer.precision={name}-mixed."
        )
    trainer: Trainer = instantiate(
        node, "trainer", logger=list(loggers), callbacks=[], default_root_dir=run_dir,
        enable_checkpointing=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={config['trainer'].get('devices')}: training on several devices is not available yet. "
            "Use trainer.devices=1."
        )
    return trainer


@lru_cache(maxsize=2)
def _backbone(node: str) -> ClipBackbone:
    """Build a backbone once for all runs of a process."""
    backbone: ClipBackbone = instantiate(json.loads(node), "clip")
    return backbone


def _save_weights(method: Method, run_dir: Path) -> None:
    state = {key: value.detach().cpu().contiguous() for key, value in method.state_dict().items()}
    temporary = run_dir / f".{WEIGHTS_FILE}.tmp"
    save_file(state, temporary, {"method": type(method).__name__})
    temporary.replace(run_dir / WEIGHTS_FILE)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(now - self._last, 4)
        self._last = now


def _quiet() -> None:
    """Keep Lightning's hints about devices and loaders out of a sweep's output."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning.*")
