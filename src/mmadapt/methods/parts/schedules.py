"""Learning-rate schedules of the few-shot papers."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Cosine(LambdaLR):
    """Cosine from the base rate to zero over ``total`` steps (Tip-Adapter steps it per iteration)."""

    def __init__(self, optimizer: Optimizer, total: int) -> None:
        """Bind the schedule; ``total`` counts epochs or iterations, whichever it is stepped by."""
        super().__init__(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(step, total) / max(total, 1)))
        )


class DasslCosine(LambdaLR):
    """The schedule of CoOp's training framework, stepped once per epoch.

    The first ``warmup`` epochs run at the constant ``warmup_lr``. Epoch e after them, counted from 1, runs at
    ``lr/2 · (1 + cos(π (e − 1 − warmup) / total))``: the cosine starts at the base rate but is not stretched
    to the remaining epochs, so the last rate is not zero.
    """

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 1, warmup_lr: float = 1e-5) -> None:
        """Bind the schedule to an optimiser that runs ``total`` epochs."""

        def factor(base: float) -> Callable[[int], float]:
            def at(epoch: int) -> float:
                if epoch < warmup:
                    return warmup_lr / base if base else 0.0
                return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(total, 1)))

            return at

        super().__init__(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])
