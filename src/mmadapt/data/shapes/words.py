"""The language of the `shapes` world: class phrases, and what is held out of pre-training."""

from __future__ import annotations

import random
from functools import cache

from mmadapt.data.shapes.geometry import COLOURS, SHAPES, SURFACES

Combination = tuple[int, int, int]

COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
NUMBERS: tuple[str, ...] = ("one", "two", "three", "four")
COMBINATIONS: tuple[Combination, ...] = tuple(
    (shape, colour, surface)
    for shape in range(len(SHAPES))
    for colour in range(len(COLOURS))
    for surface in range(len(SURFACES))
)


@cache
def held_out() -> frozenset[Combination]:
    """The random quarter of all combinations that pre-training never shows."""
    shuffled = list(COMBINATIONS)
    random.Random(2026).shuffle(shuffled)
    return frozenset(shuffled[: len(shuffled) // 4])


def plural(noun: str) -> str:
    """Plural of a shape's name."""
    return noun + ("es" if noun.endswith("s") else "s")


def class_phrase(combination: Combination) -> str:
    """Phrase that names a combination, as in "red striped star"."""
    shape, colour, surface = combination
    return f"{COLOUR_NAMES[colour]} {SURFACES[surface]} {SHAPES[shape]}"
