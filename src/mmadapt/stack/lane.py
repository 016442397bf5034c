"""Runs in step: their weights stacked along a leading axis, one training step for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.func import functional_call, vmap

from mmadapt.data.resident import ResidentData
from mmadapt.errors import UserError
from mmadapt.methods.base import Gradients, Method
from mmadapt.stack.batches import Batches
from mmadapt.stack.optim import StackedOptimizer, column, kind, learning_rates, unsupported

_NOT_IN_LOSS = {
    "clip", "classes", "epochs", "selection", "schedule_by", "tuned", "run_dir", "view_spec", "batch_size", "patience",
    "search_scale", "search_step", "search_alpha", "optimizer", "scheduler", "scorer",
}  # fmt: skip


@dataclass
class Run:
    """One run of a stack, before and after.

    Attributes:
        method: The method, after `adapt`; it gets the learned weights.
        data: Its shots and val.
        epochs: Epochs to train.
        error: Why this run failed, while the others went on.
        trained: Epochs that were trained.
        best: Epoch and top-1 on val of the weights kept, with ``best_val``.
        history: What each epoch logs.
        seconds: This run's share of the time, by its share of the steps.
        stacked: Number of runs that it was trained with, itself included.
    """

    method: Method
    data: ResidentData
    epochs: int
    error: UserError | None = None
    trained: int = 0
    best: tuple[int, float] | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    stacked: int = 0


def obstacle(method: Method) -> str:
    """Say why a method cannot be trained in a stack; empty if it can."""
    name = type(method).__name__
    if not method.stackable:
        return f"{name} does not declare that it can be stacked"
    if not method.trainable_parameters():
        return f"{name} has nothing to train"
    if method.draws_noise():
        return f"{name} draws noise in training, and stacked it would draw another"
    if method.clip.dtype == torch.float16:
        return "gradients in float16 need a scale that every run sets for itself"
    return unsupported(method)


def lane_key(run: Run) -> tuple[Any, ...]:
    """Return what runs must share to be trained in step.

    Shapes, structure, and every number but those that `StackedOptimizer`, the schedules and floating-point
    buffers hold for each run.
    """
    method = run.method
    own = vars(method).keys() - _inherited() - _NOT_IN_LOSS
    plain = tuple((name, _identity(vars(method)[name])) for name in sorted(own))
    modules = tuple(
        (name, repr(child)) for name, child in method.named_children() if name not in ("clip", "scorer")
    )
    parameters = tuple((n, p.shape, p.dtype, p.requires_grad) for n, p in _own(method.named_parameters()))
    buffers = tuple(
        (n, b.shape, b.dtype, () if b.is_floating_point() else tuple(b.flatten().tolist()))
        for n, b in _own(method.named_buffers())
    )
    images = run.data.support.image_features
    shapes = (images.shape[1:], images.dtype, images.device, run.data.batch_size)
    return type(method), id(method.clip), plain, modules, parameters, buffers, shapes, kind(method)


@lru_cache(maxsize=1)
def _inherited() -> frozenset[str]:
    return frozenset(vars(LightningModule()))


def _identity(value: Any) -> str:
    return f"tensor {id(value)}" if isinstance(value, Tensor) else repr(value)


def _own(named: Any) -> list[tuple[str, Tensor]]:
    return [(name, tensor) for name, tensor in named if not name.startswith(("clip.", "scorer."))]


class Lane:
    """R runs that take the same number of steps per epoch on batches of the same sizes.

    Attributes:
        runs: The runs still in training.
        weights: Their trainable parameters, stacked (R, …); the methods' own parameters are views of them.
    """

    def __init__(self, runs: Sequence[Run], *, formula: bool = True) -> None:
        """Stack the weights.

        Args:
            runs: Runs with equal `lane_key`, none with an `obstacle`.
            formula: Use the method's own `stacked_gradients`, if it has any; else autograd.
        """
        self.runs, self._formula = list(runs), formula
        method = self.runs[0].method
        names = [name for name, parameter in method.named_parameters() if parameter.requires_grad]
        self.weights = {
            name: torch.stack([run.method.get_parameter(name).detach() for run in self.runs])
            for name in names
        }
        self._batches = Batches([run.data for run in self.runs])
        self._rates = [_rates(run, self._batches.steps) for run in self.runs]
        self._optimizer = StackedOptimizer(list(self.weights.values()), [run.method for run in self.runs])
        self._bind()

    def epoch(self, epoch: int) -> Tensor:
        """Train one epoch, counted from 0, and return each run's mean loss (R,)."""
        losses: list[Tensor] = []
        first = epoch * self._batches.steps
        present: list[float] = []
        for step, (features, labels) in enumerate(self._batches.epoch(epoch), first):
            loss, gradients = self._gradients(self.weights, features, labels)
            rates = [rates[step] for rates in self._rates]
            if rates != present:
                present, columns = rates, column(rates, features)
            self._optimizer.step([gradients[name] for name in self.weights], columns)
            losses.append(loss)
        return torch.stack(losses).mean(dim=0)

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with some of the runs; the others keep the weights that they have."""
        for position in set(range(len(self.runs))) - set(positions):
            for name in self.weights:
                parameter = self.runs[position].method.get_parameter(name)
                parameter.data = parameter.data.clone()
        self.runs = [self.runs[position] for position in positions]
        self._rates = [self._rates[position] for position in positions]
        if self.runs:
            rows = torch.tensor(list(positions), device=next(iter(self.weights.values())).device)
            self.weights = {name: weight[rows] for name, weight in self.weights.items()}
            self._optimizer.keep(rows, list(self.weights.values()))
            self._batches.keep(positions)
            self._bind()

    def _bind(self) -> None:
        """Make the methods' parameters views of the stack, and choose how gradients are computed."""
        for row, run in enumerate(self.runs):
            for name, weight in self.weights.items():
                run.method.get_parameter(name).data = weight[row]
        methods = [run.method for run in self.runs]
        # A formula holds the buffers of one method, such as α and β of a cache: it must hold them for all.
        formula = methods[0].stacked_gradients() if self._formula and _equal_buffers(methods) else None
        self._gradients: Gradients = formula or autograd_gradients(methods)


def _rates(run: Run, steps: int) -> list[float]:
    """Return the learning rate of each step of a run."""
    if run.method.schedule_by == "step":
        return learning_rates(run.method, run.epochs * steps)
    return [rate for rate in learning_rates(run.method, run.epochs) for _ in range(steps)]


def _equal_buffers(methods: Sequence[Method]) -> bool:
    own = dict(_own(methods[0].named_buffers()))
    return all(torch.equal(own[n], b) for other in methods[1:] for n, b in _own(other.named_buffers()))


class _Loss(nn.Module):
    """Makes `Method.loss` what `functional_call` calls."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.method.loss((features, labels))


def autograd_gradients(methods: Sequence[Method]) -> Gradients:
    """Return losses and gradients of stacked runs by `torch.func.vmap` of the first method's own `loss`.

    Floating-point buffers that differ between the methods are stacked as well; equal ones, such as the text
    features, stay single.
    """
    method = methods[0].train()
    module = _Loss(method)
    buffers = {}
    for name, buffer in _own(method.named_buffers()):
        each = [other.get_buffer(name) for other in methods]
        if not all(torch.equal(buffer, other) for other in each):
            buffers[f"method.{name}"] = torch.stack(each)

    def loss(weights: dict[str, Tensor], own: dict[str, Tensor], features: Tensor, labels: Tensor) -> Tensor:
        result: Tensor = functional_call(module, {**weights, **own}, (features, labels))
        return result

    stacked_loss = vmap(loss)

    def gradients(
        weights: dict[str, Tensor], features: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        leaves = {f"method.{name}": weight.detach().requires_grad_() for name, weight in weights.items()}
        losses = stacked_loss(leaves, buffers, features, labels)
        each = torch.autograd.grad(losses.sum(), list(leaves.values()))
        return losses.detach(), {name: g.contiguous() for name, g in zip(weights, each, strict=True)}

    return gradients
