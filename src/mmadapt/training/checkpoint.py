"""Training that goes on where it was interrupted: ``last.ckpt`` in the folder of a run.

Lightning's own checkpoint is not used: its loaders do not know the epoch they are in, and it has no random state. A
run that goes on ends with the weights, scores and curve of one that was never interrupted, bit by bit where its
kernels are deterministic. One that is trained batch by batch (`needs_textbook`) starts at the beginning.
"""

from __future__ import annotations

import hashlib
import io
import logging
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import MixedPrecision

from mmadapt.distributed import from_main, gathered, this_process
from mmadapt.files import replacing
from mmadapt.results import CHECKPOINT_FILE, PROTOCOL

log = logging.getLogger(__name__)

LAYOUT = 2
"""Version of the file's content."""
_DIGEST = 16  # bytes of the checksum before it


class Resume(Callback):
    """Saves the state of training at the end of an epoch from time to time, and starts from a saved one.

    A file of another configuration, draw of shots, kind of device or number of processes is not continued but
    removed, as is one that cannot be read; a warning says so. Rank 0 writes and reads.

    Attributes:
        times: Interruptions behind the present weights.
        seconds: What training took before this attempt, without what an interruption lost.
    """

    def __init__(self, run_dir: Path, fingerprint: str, draw: str, every: float) -> None:
        """Bind a run.

        Args:
            run_dir: Folder of the run.
            fingerprint: Of its configuration.
            draw: Hash of the shots.
            every: Seconds of training between two checkpoints; 0 saves after every epoch.
        """
        self.path, self.every, self.times, self.seconds = run_dir / CHECKPOINT_FILE, every, 0, 0.0
        self.identity: dict[str, Any] = {
            "layout": LAYOUT,
            "protocol": PROTOCOL,
            "fingerprint": fingerprint,
            "draw": draw,
        }
        self.curve = Curve()
        self._state: dict[str, Any] | None = None
        self._started = self._saved = time.perf_counter()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the checkpoint; load weights, best epoch and patience, now that the method has seen its shots."""
        self._started = self._saved = time.perf_counter()
        device = trainer.strategy.root_device.type
        self.identity |= {"processes": trainer.world_size, "device": device}
        state = read(self.path, self.identity) if trainer.is_global_zero else None
        self._state = from_main(state)
        if trainer.is_global_zero:
            trainer.loggers = [*trainer.loggers, self.curve]
        if self._state is not None:
            pl_module.load_state_dict(self._state["weights"])
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if callback.state_key in self._state["callbacks"]:
                    callback.load_state_dict(self._state["callbacks"][callback.state_key])
            self.times, self.seconds = self._state["times"] + 1, self._state["seconds"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let trainer, loader and loggers stand where they stood."""
        if self._state is None:
            return
        epoch = self._state["epoch"]
        if trainer.is_global_zero:
            log.warning("%s goes on after epoch %d of %s.", self.path.parent, epoch, trainer.max_epochs)
        progress = trainer.fit_loop.epoch_progress
        for counts in (progress.total, progress.current):
            vars(counts).update(dict.fromkeys(("ready", "started", "processed", "completed"), epoch))
        trainer.fit_loop.epoch_loop._batches_that_stepped = epoch
        trainer.train_dataloader.epoch = epoch  # type: ignore[union-attr]
        trainer.should_stop = self._state["stop"]
        for metrics, step in self._state["curve"]:  # the loggers have begun anew
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load the state of optimiser, schedule and random numbers before the first epoch of this attempt."""
        if self._state is not None:
            for part, state in zip(_stepped(trainer), self._state["stepped"], strict=True):
                part.load_state_dict(state)
            set_random_state(self._state["random"][this_process()[0]])
            self._state = None

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save if it is time; validation of this epoch lies behind us."""
        now = time.perf_counter()
        if not from_main(now - self._saved >= self.every):
            return
        states = gathered(random_state())
        if trainer.is_global_zero:
            callbacks = {each.state_key: each.state_dict() for each in trainer.callbacks}  # type: ignore[attr-defined]
            content = {
                "identity": self.identity,
                "epoch": trainer.current_epoch + 1,
                "stop": trainer.should_stop,
                "times": self.times,
                "seconds": self.seconds + now - self._started,
                "weights": pl_module.state_dict(),
                "stepped": [part.state_dict() for part in _stepped(trainer)],
                "callbacks": {key: state for key, state in callbacks.items() if state},
                "random": states,
                "curve": self.curve.rows,
            }
            write(self.path, content)
        self._saved = time.perf_counter()


def _stepped(trainer: Trainer) -> list[Any]:
    """Return what changes with each step beside the weights: optimisers, schedules, the scale of gradients."""
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    scaler = trainer.precision_plugin.scaler if isinstance(trainer.precision_plugin, MixedPrecision) else None
    return [*trainer.optimizers, *schedules, *([] if scaler is None else [scaler])]


class Curve(Logger):
    """Remembers what was logged, to tell it to the loggers of the next attempt.

    Attributes:
        rows: Metrics and step of each row.
    """

    name, version = "curve", 0

    def __init__(self) -> None:
        """Start without a row."""
        super().__init__()
        self.rows: list[tuple[dict[str, float], int | None]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Remember a row."""
        self.rows.append((dict(metrics), step))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the content of a checkpoint, or None; a file that is not of this run is removed."""
    try:
        state = load(path)
        found = state["identity"]
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file raises about anything
        reason = f"cannot be read ({type(error).__name__})"
    else:
        if found == identity:
            return state
        changed = sorted(key for key in identity if found.get(key) != identity[key])
        reason = f"is of another {' and '.join(changed)}"
    log.warning("%s %s and is removed; training starts at the beginning.", path, reason)
    path.unlink(missing_ok=True)
    return None


def load(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint.

    Raises:
        ValueError: If it is not what was written; torch itself does not look at the sums of its archive.
    """
    raw = path.read_bytes()
    if raw[:_DIGEST] != _digest(raw[_DIGEST:]):
        raise ValueError("the checksum differs")
    state: dict[str, Any] = torch.load(io.BytesIO(raw[_DIGEST:]), map_location="cpu", weights_only=True)
    return state


def _digest(raw: bytes | memoryview) -> bytes:
    return hashlib.blake2b(raw, digest_size=_DIGEST).digest()


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint so that a crash leaves the old one or the new one; a full disk is a warning."""
    try:
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            stream.write(_digest(buffer.getbuffer()))
            stream.write(buffer.getbuffer())
    except OSError as error:
        log.warning("%s cannot be written: %s. Training goes on without it.", path, error)


def random_state() -> dict[str, Any]:
    """Return the state of all global generators of this process, in types that `torch.load` takes as safe."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - see below
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state(  # noqa: NPY002 - the global state is what code may have drawn from
        (name, np.array(keys, dtype=np.uint32), *rest)
    )
    random.setstate(state["python"])
