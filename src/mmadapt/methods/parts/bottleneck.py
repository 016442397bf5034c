"""The residual bottleneck of CLIP-Adapter (arXiv 2110.04544, §3.1), one or several side by side."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.errors import UserError


def adapter_features(
    features: Tensor, down: Tensor, up: Tensor, ratio: float | Tensor, final_relu: bool = True
) -> Tensor:
    """Return ``n(ratio · A(f) + (1 − ratio) · f)`` with ``A(f) = ReLU(ReLU(f · downᵀ) · upᵀ)``.

    Args:
        features: Raw features (..., B, D); leading axes may stack adapters.
        down: Weights (..., H, D).
        up: Weights (..., D, H).
        ratio: Residual ratio α, the share of the adapted feature; a number or (..., 1, 1).
        final_relu: Apply the second ReLU, as the released code does and the paper's equation does not.
    """
    adapted = torch.relu(features @ down.mT) @ up.mT
    adapted = torch.relu(adapted) if final_relu else adapted
    return F.normalize(ratio * adapted + (1 - ratio) * features, dim=-1)


class Bottleneck(nn.Module):
    """`adapter_features` with weights of its own; a stack of R of them until one is kept.

    Attributes:
        down: D → H, no bias; (R, H, D) in a stack.
        up: H → D, no bias.
        ratio: Residual ratio; None takes those of the stack.
        ratio_logit: The ratio before the sigmoid, if it is learned.
    """

    def __init__(self, dim: int, hidden: int, ratio: float, learn_ratio: bool, final_relu: bool) -> None:
        """Draw the weights; a learned ratio starts at ``ratio``."""
        super().__init__()
        self.down = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(hidden, dim, bias=False)
        self.ratio: float | None = ratio
        self.final_relu = final_relu
        self.ratio_logit = nn.Parameter(torch.logit(torch.tensor(float(ratio)))) if learn_ratio else None

    def forward(self, features: Tensor, ratios: Tensor) -> Tensor:
        """Return unit adapted features, given the ratios (R,) of a stack."""
        ratio = ratios[:, None, None] if self.ratio is None else self.ratio
        if self.ratio_logit is not None:
            ratio = torch.sigmoid(self.ratio_logit)
        return adapter_features(features, self.down.weight, self.up.weight, ratio, self.final_relu)

    def stack(self, copies: int, *, one_ratio: bool) -> None:
        """Put copies with the same weights side by side, under this ratio or under those given to `forward`."""
        self.ratio = self.ratio if one_ratio else None
        for layer in (self.down, self.up):
            layer.weight = nn.Parameter(layer.weight.detach().expand(copies, -1, -1).clone())

    def keep(self, place: int, ratio: float) -> None:
        """Keep one of the stack, with its ratio."""
        for layer in (self.down, self.up):
            layer.weight = nn.Parameter(layer.weight[place].detach().clone())
        self.ratio = ratio if self.ratio is None else self.ratio


class Bottlenecks(nn.ModuleDict):
    """`Bottleneck` of the ``image`` features, of the ``text`` features, or of both."""

    def each(self) -> dict[str, Bottleneck]:
        """Return them by side."""
        return {side: part for side, part in self.items() if isinstance(part, Bottleneck)}

    def stack(self, copies: int, one_ratio: Container[str] = ()) -> None:
        """Put copies with the same weights side by side; sides in ``one_ratio`` keep theirs."""
        for side, part in self.each().items():
            part.stack(copies, one_ratio=side in one_ratio)

    def keep(self, place: int, ratio: float) -> None:
        """Keep one of the stack, with its ratio."""
        for part in self.each().values():
            part.keep(place, ratio)

    def learned_ratios(self) -> dict[str, float]:
        """Return the learned ratios by side."""
        logits = {side: part.ratio_logit for side, part in self.each().items()}
        return {side: float(logit.sigmoid()) for side, logit in logits.items() if logit is not None}


def check_ratios(
    grid: Sequence[float], text_ratio: float | None, learn: bool, search: bool, selection: str
) -> None:
    """Refuse ratios that make no sense.

    Raises:
        UserError: Saying which.
    """
    if not grid:
        raise UserError("method.ratio_grid is empty: give values in [0, 1], for example [0.2,0.4,0.6,0.8].")
    for value in [*grid, *([] if text_ratio is None else [text_ratio])]:
        if not 0 <= value <= 1:
            raise UserError(
                f"method.ratio={value} must lie in [0, 1]: it is the share of the adapted feature."
            )
        if learn and not 0 < value < 1:
            raise UserError(f"method.ratio={value} cannot be learned from there: start inside (0, 1).")
    if learn and search:
        raise UserError("method.learn_ratio=true and method.ratio_grid exclude each other; set one of them.")
    if search and selection == "best_val":
        raise UserError(
            "method.ratio_grid chooses the ratio on val and method.selection=best_val the epoch; "
            "use selection=last with a grid."
        )
