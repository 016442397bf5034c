"""Runs of CLIP-Adapter on synthetic features: for the benchmarks of training."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning
import torch
from torch import nn
from torch.nn import functional as F

from mmadapt.data.base import ClassSet
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.methods.parts.schedules import DasslCosine
from mmadapt.methods.tip_adapter import TipAdapterF
from mmadapt.training import epoch_fit
from mmadapt.training.feature_data import ResidentData

VIEWS, VAL, BATCH = 10, 200, 32
OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4),
    "adamw": torch.optim.AdamW,
}
SCHEDULES: dict[str, Any] = {"sgd": DasslCosine, "adamw": None}
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")


class Towerless(nn.Module):
    """Stands for the frozen backbone, of which a step on cached features needs width and scale."""

    dtype = torch.float32

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.logit_scale = nn.Parameter(torch.tensor(4.6052), requires_grad=False)


@dataclass(frozen=True)
class Spec:
    """What distinguishes one run from another."""

    seed: int
    shots: int
    lr: float
    batch: int = BATCH


@dataclass(frozen=True)
class Run:
    """A method, its features in memory, and for how many epochs it is trained on them."""

    method: ClipAdapter | TipAdapterF
    data: ResidentData
    epochs: int


def in_memory(support: FeatureSet, val: FeatureSet, batch_size: int, seed: int) -> ResidentData:
    """Return a data module of ready features, without validation on the way."""
    nothing = SimpleNamespace(setup=lambda stage: None)
    data = ResidentData(
        nothing,
        None,
        batch_size=batch_size,
        seed=seed,
        validate=False,
        device=support.labels.device,  # type: ignore[arg-type]
    )
    data.support, data.val_features = support, val
    return data


class Problem:
    """Synthetic features of one data set, drawn per seed and number of shots, and runs on them."""

    def __init__(
        self,
        dim: int,
        classes: int,
        optimizer: str,
        epochs: int,
        *,
        schedule: bool = True,
        device: str = "cpu",
    ) -> None:
        self.dim, self.classes, self.optimizer, self.epochs = dim, classes, optimizer, epochs
        self.schedule = SCHEDULES[optimizer] if schedule else None
        self.device = torch.device(device)
        self.clip = Towerless(dim).to(self.device)
        self.names = ClassSet(tuple(f"class {i}" for i in range(classes)))
        generator = torch.Generator().manual_seed(0)
        self.texts = F.normalize(torch.randn(classes, dim, generator=generator), dim=-1)
        self.centres = 10 * F.normalize(
            self.texts + 0.1 * torch.randn(classes, dim, generator=generator), dim=-1
        )
        self.val = self.draw(VAL, 1, generator)
        self._shots: dict[tuple[int, int], FeatureSet] = {}

    def draw(self, count: int, views: int, generator: torch.Generator) -> FeatureSet:
        """Return noisy features (V, N, D) around the class centres."""
        labels = torch.arange(count) % self.classes
        noise = torch.randn(views, count, self.dim, generator=generator) * (30 / self.dim**0.5)
        return FeatureSet((self.centres[labels] + noise).to(self.device), labels.to(self.device))

    def run(self, spec: Spec) -> Run:
        """Build a run; equal shots are shared between runs, as in a sweep."""
        at = (spec.seed, spec.shots)
        if at not in self._shots:
            generator = torch.Generator().manual_seed(spec.seed)
            self._shots[at] = self.draw(spec.shots * self.classes, VIEWS, generator)
        torch.manual_seed(spec.seed)
        method = ClipAdapter(
            self.clip, self.names, text_features=self.texts.to(self.device),  # type: ignore[arg-type]
            optimizer=partial(OPTIMIZERS[self.optimizer], lr=spec.lr), scheduler=self.schedule,
            schedule_by="epoch", epochs=self.epochs, batch_size=spec.batch, views=VIEWS,
        ).to(self.device)  # fmt: skip
        data = in_memory(self._shots[at], self.val, spec.batch, spec.seed)
        return Run(method, data, self.epochs)


def bare(run: Run) -> Run:
    """Train a run by a plain loop: PyTorch's modules, autograd and optimiser, nothing around them."""
    method = run.method
    adapter, texts = method.adapters["image"], method.text_features
    down, up = adapter.down, adapter.up
    scale, ratio = method.scale, adapter.ratio
    optimizer = method.optimizer([down.weight, up.weight])
    schedule = method.scheduler(optimizer, run.epochs) if method.scheduler else None
    (features, labels), seed = run.data.support, run.data.seed
    start = torch.randint(len(features), (len(labels),), generator=torch.Generator().manual_seed(seed))
    for epoch in range(run.epochs):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        for rows in torch.randperm(len(labels), generator=generator).split(run.data.batch_size):
            x, y = features[(start[rows] + epoch) % len(features), rows], labels[rows]
            adapted = torch.relu(up(torch.relu(down(x))))
            blended = F.normalize(ratio * adapted + (1 - ratio) * x, dim=-1)
            loss = F.cross_entropy(scale * blended @ texts.T, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if schedule is not None:
            schedule.step()
    return run


def by_lightning(run: Run, *callbacks: lightning.Callback) -> Run:
    """Train a run as an experiment does when it runs alone."""
    trainer = lightning.Trainer(
        max_epochs=run.epochs, accelerator=run.data.device.type, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    epoch_fit.fit(trainer, run.method, run.data)
    return run
