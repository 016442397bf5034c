"""Outlines and surfaces of the `shapes` world as analytic fields over a coordinate grid.

Every function maps coordinates ``x`` (right) and ``y`` (up), given in object units where the object spans
about [-1, 1], to one value per point.  Only element-wise operations are used, so results do not depend on the
number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.10, 0.12),
    "orange": (0.97, 0.53, 0.06),
    "yellow": (0.96, 0.90, 0.16),
    "green": (0.13, 0.60, 0.20),
    "cyan": (0.14, 0.80, 0.86),
    "blue": (0.12, 0.24, 0.86),
    "purple": (0.50, 0.14, 0.68),
    "pink": (0.97, 0.56, 0.73),
    "brown": (0.44, 0.26, 0.11),
    "white": (0.95, 0.95, 0.95),
}
SURFACES: tuple[str, ...] = ("solid", "striped", "dotted", "checkered", "gradient")


def _radius(x: Tensor, y: Tensor) -> Tensor:
    return torch.sqrt(x * x + y * y + 1e-9)


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    return torch.maximum(x.abs() - half_width, y.abs() - half_height)


def _sector(angle: Tensor, n: int) -> Tensor:
    """Fold an angle [rad] into the sector of width 2π/n centred on zero."""
    width = 2 * math.pi / n
    return torch.remainder(angle + width / 2, width) - width / 2


def _polygon(x: Tensor, y: Tensor, n: int, apothem: float) -> Tensor:
    """Regular polygon standing on one of its sides."""
    return _radius(x, y) * torch.cos(_sector(torch.atan2(x, -y), n)) - apothem


def _star(x: Tensor, y: Tensor) -> Tensor:
    r, fold = _radius(x, y), _sector(torch.atan2(x, y), 5).abs()
    along, across = r * torch.cos(fold), r * torch.sin(fold)
    valley = (0.42 * math.cos(math.pi / 5), 0.42 * math.sin(math.pi / 5))
    dx, dy = valley[0] - 1.0, valley[1]
    return ((along - 1.0) * dy - across * dx) / math.hypot(dx, dy)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    lobe = 0.56
    centre = lobe / math.sqrt(2)
    x = x.abs()
    body = (x + y.abs()) / math.sqrt(2) - lobe
    return torch.minimum(body, _radius(x - centre, y - centre) - lobe)


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    shaft = _box(x + 0.4, y, 0.5, 0.2)
    head = torch.maximum(-x, 0.8 * (y.abs() - 0.76 * (0.95 - x)))
    return torch.minimum(shaft, head)


_OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: _radius(x, y) - 0.85,
    "square": lambda x, y: _box(x, y, 0.74, 0.74),
    "triangle": lambda x, y: _polygon(x, y + 0.15, 3, 0.5),
    "star": _star,
    "heart": _heart,
    "cross": lambda x, y: torch.minimum(_box(x, y, 0.28, 0.9), _box(x, y, 0.9, 0.28)),
    "ring": lambda x, y: (_radius(x, y) - 0.66).abs() - 0.2,
    "crescent": lambda x, y: torch.maximum(_radius(x, y) - 0.9, 0.78 - _radius(x - 0.42, y)),
    "hexagon": lambda x, y: _polygon(x, y, 6, 0.78),
    "diamond": lambda x, y: 0.48 * (x.abs() / 0.55 + y.abs() / 0.98 - 1),
    "arrow": _arrow,
    "flower": lambda x, y: 0.7 * (_radius(x, y) - 0.68 - 0.24 * torch.cos(5 * torch.atan2(x, y))),
}
SHAPES: tuple[str, ...] = tuple(_OUTLINES)


def signed_distance(shape: int, x: Tensor, y: Tensor) -> Tensor:
    """Return the approximate distance to the outline of ``SHAPES[shape]`` [object units], negative inside."""
    return _OUTLINES[SHAPES[shape]](x, y)


def surface_field(
    surface: int, x: Tensor, y: Tensor, frequency: Tensor, angle: Tensor, phase: Tensor
) -> Tensor:
    """How much of the second colour a surface shows at each point.

    Args:
        surface: Index into `SURFACES`.
        x: Object coordinates, (n, H, W).
        y: Object coordinates, (n, H, W).
        frequency: Half-periods per object unit, (n, 1, 1).
        angle: Direction of the surface's axis [rad], (n, 1, 1).
        phase: Shift of the surface [rad], (n, 1, 1).

    Returns:
        Share of the second colour in [0, 1], (n, H, W).
    """
    along = torch.cos(angle) * x + torch.sin(angle) * y
    across = torch.cos(angle) * y - torch.sin(angle) * x
    u, v = along * frequency * math.pi + phase, across * frequency * math.pi + phase
    match SURFACES[surface]:
        case "striped":
            share = 0.5 + 2.5 * torch.sin(1.15 * u)
        case "dotted":
            share = 0.5 + 3.0 * (torch.cos(1.25 * u) + torch.cos(1.25 * v) - 0.75)
        case "checkered":
            share = 0.5 + 4.0 * torch.sin(u) * torch.sin(v)
        case "gradient":
            share = 0.5 + 0.62 * along
        case _:
            share = torch.zeros_like(x)
    return share.clamp(0, 1)
