"""SGD, Adam and AdamW over parameters stacked along a run axis, each run with rates of its own.

The arithmetic is that of PyTorch's single-tensor implementations, so that a run gets what it gets alone, up to
rounding. A value that is the same for all runs stays a number; else it is a column over the runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from mmadapt.methods.base import Method

Column = float | Tensor
"""A number for all runs, or one for each (R,)."""
_PLAIN = {"amsgrad", "maximize", "capturable", "differentiable"}


def optimizer_of(method: Method) -> Optimizer:
    """Return the method's optimiser over one stand-in parameter: its class and options are what counts."""
    return method.optimizer([torch.nn.Parameter(torch.zeros(1, device=method.text_features.device))])


def unsupported(method: Method) -> str:
    """Say why the optimiser or the schedule of a method cannot be stacked; empty if it can."""
    optimizer = optimizer_of(method)
    name = type(optimizer).__name__
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return f"its optimiser {name} has no stacked form"
    (group,) = optimizer.param_groups
    set_ = [key for key in sorted(_PLAIN) if group.get(key)]
    if set_:
        return f"{name} with {', '.join(set_)} has no stacked form"
    if any(isinstance(group[key], Tensor) for key in ("lr", "weight_decay")):
        return "its learning rate is a tensor"
    if method.scheduler is not None:
        schedule = method.scheduler(optimizer, 1)
        if not isinstance(schedule, LRScheduler) or optimizer.param_groups[0].keys() - group.keys():
            return f"the schedule {type(schedule).__name__} depends on more than the step"
        if type(schedule).__module__ == "torch.optim.lr_scheduler" and "Plateau" in type(schedule).__name__:
            return "ReduceLROnPlateau depends on the loss"
        if "momentum" in "".join(vars(schedule)):
            return f"the schedule {type(schedule).__name__} changes the momentum"
    return ""


def kind(method: Method) -> tuple[str, bool, bool]:
    """Return what all runs of a stack must share of the optimiser: class, Nesterov, decoupled weight decay."""
    optimizer = optimizer_of(method)
    group = optimizer.param_groups[0]
    return (
        type(optimizer).__name__,
        bool(group.get("nesterov")),
        bool(group.get("decoupled_weight_decay")),
    )


def learning_rates(method: Method, total: int) -> list[float]:
    """Return the rate at each of ``total`` steps of the method's schedule, as its scheduler would set it."""
    optimizer = optimizer_of(method)
    group = optimizer.param_groups[0]
    if method.scheduler is None or total == 0:
        return [float(group["lr"])] * total
    schedule = method.scheduler(optimizer, total)
    if isinstance(schedule, LambdaLR):
        base, factor = schedule.base_lrs[0], schedule.lr_lambdas[0]
        return [float(base * factor(step)) for step in range(total)]
    rates = []
    for _ in range(total):
        rates.append(float(group["lr"]))
        optimizer.step()  # without a gradient: nothing moves, but the schedule wants it
        schedule.step()
    return rates


class StackedOptimizer:
    """The optimisers of R runs in one.

    Attributes:
        parameters: Stacked parameters, each (R, …); changed in place.
    """

    def __init__(self, parameters: Sequence[Tensor], methods: Sequence[Method]) -> None:
        """Take class and options from the methods, which share `kind`."""
        self.parameters = list(parameters)
        self.name, self.nesterov, self.decoupled = kind(methods[0])
        self._groups = [optimizer_of(method).param_groups[0] for method in methods]
        self._steps = 0
        self._first: list[Tensor] = []
        self._second: list[Tensor] = []
        self._collect()

    def step(self, gradients: Sequence[Tensor], rates: Column) -> None:
        """Move the parameters by gradients (R, …), which are overwritten, at the rates of this step."""
        self._steps += 1
        if self.name == "SGD":
            self._sgd(gradients, rates)
        else:
            self._adam(gradients, rates)

    def keep(self, runs: Tensor, parameters: Sequence[Tensor]) -> None:
        """Go on with some of the runs only: their positions, and the stacked parameters that remain."""
        self.parameters = list(parameters)
        self._groups = [self._groups[run] for run in runs.tolist()]
        self._first = [state[runs] for state in self._first]
        self._second = [state[runs] for state in self._second]
        self._collect()

    def _collect(self) -> None:
        if self.name == "SGD":  # without momentum there is no buffer, and nothing is dampened
            for group in self._groups:
                group["dampening"] = group["dampening"] if group["momentum"] else 0.0
        keys = ("momentum", "dampening", "weight_decay", "eps")
        self._values: dict[str, Column] = {
            key: self._column([group[key] for group in self._groups])
            for key in keys
            if key in self._groups[0]
        }
        if "betas" in self._groups[0]:
            self._betas = [tuple(float(beta) for beta in group["betas"]) for group in self._groups]

    def _column(self, values: Sequence[float]) -> Column:
        return column(values, self.parameters[0])

    def _sgd(self, gradients: Sequence[Tensor], rates: Column) -> None:
        momentum, decay, dampening = (self._values[key] for key in ("momentum", "weight_decay", "dampening"))
        moves = _nonzero(momentum)
        if moves and self._steps == 1:
            self._first = [torch.empty_like(parameter) for parameter in self.parameters]
        for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            if _nonzero(decay):
                add(gradient, parameter, decay)
            if moves:
                buffer = self._first[i]
                if self._steps == 1:
                    buffer.copy_(gradient)
                else:
                    add(scale(buffer, momentum), gradient, 1 - dampening)
                gradient = add(gradient, buffer, momentum) if self.nesterov else buffer
            add(parameter, gradient, -rates)

    def _adam(self, gradients: Sequence[Tensor], rates: Column) -> None:
        decay, eps = self._values["weight_decay"], self._values["eps"]
        if self._steps == 1:
            self._first = [torch.zeros_like(parameter) for parameter in self.parameters]
            self._second = [torch.zeros_like(parameter) for parameter in self.parameters]
        rest_1 = self._column([1 - b1 for b1, _ in self._betas])
        rest_2 = self._column([1 - b2 for _, b2 in self._betas])
        beta_2 = self._column([b2 for _, b2 in self._betas])
        step = self._steps
        correction_1 = self._column([1 - b1**step for b1, _ in self._betas])
        root_2 = self._column([(1 - b2**step) ** 0.5 for _, b2 in self._betas])
        for parameter, gradient, first, second in zip(
            self.parameters, gradients, self._first, self._second, strict=True
        ):
            if _nonzero(decay) and self.decoupled:
                scale(parameter, 1 - rates * decay)
            elif _nonzero(decay):
                add(gradient, parameter, decay)
            first.lerp_(gradient, rest_1 if isinstance(rest_1, float) else over(rest_1, first))
            scale(second, beta_2)
            if isinstance(rest_2, float):
                second.addcmul_(gradient, gradient, value=rest_2)
            else:
                second.addcmul_(gradient * over(rest_2, second), gradient)
            denominator = torch.sqrt(
                second, out=gradient
            )  # no new memory: its page faults cost more than the root
            denominator.div_(root_2 if isinstance(root_2, float) else over(root_2, second))
            denominator.add_(eps if isinstance(eps, float) else over(eps, second))
            size = rates / correction_1
            if isinstance(size, Tensor):
                parameter.addcdiv_(first, denominator.div_(over(size, first)), value=-1)
            else:
                parameter.addcdiv_(first, denominator, value=-size)


def column(values: Sequence[float], like: Tensor) -> Column:
    """Return the number that all runs share, or a column (R,) in double precision where ``like`` lies."""
    if len(set(values)) == 1:
        return float(values[0])
    return torch.tensor(values, dtype=torch.float64, device=like.device)


def over(values: Tensor, like: Tensor) -> Tensor:
    """Return a column (R,) as it multiplies a stacked tensor (R, …)."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def add(target: Tensor, tensor: Tensor, factor: Column) -> Tensor:
    """Add ``factor · tensor`` in place, the factor being each run's own."""
    if isinstance(factor, Tensor):
        return target.addcmul_(tensor, over(factor, tensor))
    return target.add_(tensor, alpha=factor)


def scale(target: Tensor, factor: Column) -> Tensor:
    """Multiply in place, the factor being each run's own."""
    return target.mul_(over(factor, target) if isinstance(factor, Tensor) else factor)


def _nonzero(value: Column) -> bool:
    return bool((value != 0).any()) if isinstance(value, Tensor) else value != 0
