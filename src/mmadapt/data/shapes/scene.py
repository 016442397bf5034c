"""What can vary in a scene of the `shapes` world: size, styles, difficulty and per-class quirks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 64
STYLES: tuple[str, ...] = ("photo", "sketch", "night", "blurry", "noise", "inverted", "pixelated", "foggy")


@dataclass(frozen=True)
class Scene:
    """How difficult the scenes are; pairs are the ends of a uniform draw, per image.

    Attributes:
        scale: Half extent of the object [half images].
        rotation: Largest rotation to either side [degrees].
        aspect: Largest relative stretch of the object.
        offset: Largest shift of the object from the centre [half images].
        background: Contrast of the background in [0, 1].
        clutter: Largest number of distracting pieces.
        clutter_size: Half extent of a piece [half images].
        occlusion: Probability that one of the pieces lies over the object.
        frequency: Half-periods of the surface per object unit.
        mix: Strength of the surface's second colour.
        jitter: Largest change of each colour channel of the object.
        gain: Contrast of the finished image.
        noise: Standard deviation of the pixel noise.
        warmth: Strength of a warm colour cast in [0, 1].
        inflate: Rounding of outlines [object units].
    """

    scale: tuple[float, float] = (0.46, 0.80)
    rotation: float = 25.0
    aspect: float = 0.12
    offset: float = 0.32
    background: float = 1.0
    clutter: int = 3
    clutter_size: tuple[float, float] = (0.05, 0.15)
    occlusion: float = 0.20
    frequency: tuple[float, float] = (1.9, 2.7)
    mix: tuple[float, float] = (0.60, 0.85)
    jitter: float = 0.08
    gain: tuple[float, float] = (0.85, 1.15)
    noise: tuple[float, float] = (0.005, 0.03)
    warmth: float = 0.0
    inflate: float = 0.0


@dataclass(frozen=True)
class Quirks:
    """Per-image deviations from the scene, by which a class can have a look of its own.

    Attributes:
        size: Factor on the object's scale, (B,).
        turn: Extra rotation [rad], (B,).
        stretch: Factor on the object's width over its height, (B,).
        tone: Added to the object's colour, (B, 3).
        backdrop: Added to the background, (B, 3).
        companion: Index into `SHAPES` of a small second object, -1 for none, (B,).
        place: Centre of the second object [half images], (B, 2).
        companion_colour: Its colour, (B, 3).
    """

    size: Tensor
    turn: Tensor
    stretch: Tensor
    tone: Tensor
    backdrop: Tensor
    companion: Tensor
    place: Tensor
    companion_colour: Tensor

    def take(self, index: Tensor) -> Quirks:
        """The quirks of the chosen rows, so that a table per class becomes one per image."""
        return Quirks(**{name: value[index] for name, value in vars(self).items()})
