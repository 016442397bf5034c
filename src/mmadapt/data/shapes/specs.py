"""Downstream worlds of rendered shapes: labelled image sets unlike those the tiny CLIP was trained on.

They stand in for the photographic benchmarks where no download is possible.  Two gaps separate them from the
pre-training images.  One is shared: smaller objects, more clutter and occlusion, a warm cast.  The other
belongs to each class, which has its own consistent size, tilt, proportion, tone, backdrop and small second
object.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

from mmadapt.data.shapes.geometry import COLOURS, SHAPES, SURFACES
from mmadapt.data.shapes.render import STYLES, Scene
from mmadapt.errors import UserError, did_you_mean

Combination = tuple[int, int, int]

COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
NUMBERS: tuple[str, ...] = ("one", "two", "three", "four")
COMBINATIONS: tuple[Combination, ...] = tuple(
    product(range(len(SHAPES)), range(len(COLOURS)), range(len(SURFACES)))
)
ANY = -1

_GAP = Scene(
    scale=(0.34, 0.58),
    rotation=35.0,
    offset=0.42,
    clutter=6,
    clutter_size=(0.05, 0.16),
    occlusion=0.35,
    frequency=(2.1, 3.0),
    mix=(0.45, 0.70),
    noise=(0.01, 0.05),
    warmth=0.8,
    inflate=0.02,
)
# The outline alone is the hardest to tell from a small object, so that world has a narrower gap.
_NARROW_GAP = replace(_GAP, scale=(0.42, 0.72), rotation=28.0, clutter=4, occlusion=0.25, warmth=0.5)


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


@dataclass(frozen=True)
class World:
    """Specification of one downstream world.

    Attributes:
        names: Class names in label order; the first half are the base classes, the second half the new ones.
        attributes: Shape, colour, surface and count of each class, `ANY` where it varies from image to image.
        style: One of `STYLES`.
        scene: The gap that all classes share.
        quirk: Strength of the gap that each class has to itself.
        per_class: Images per class in train, val and test.
    """

    names: tuple[str, ...]
    attributes: tuple[tuple[int, int, int, int], ...]
    style: str = "photo"
    scene: Scene = _GAP
    quirk: float = 1.8
    per_class: tuple[int, int, int] = (24, 8, 25)


def _balanced(pool: list[Combination], number: int, rng: random.Random) -> list[Combination]:
    """Choose combinations greedily so that shapes, colours and surfaces are used about equally often."""
    rng.shuffle(pool)
    used: dict[tuple[int, int], int] = {}
    chosen: list[Combination] = []
    weights = (4, 3, 1)

    def crowding(combination: Combination) -> int:
        return sum(used.get((axis, value), 0) * weights[axis] for axis, value in enumerate(combination))

    for _ in range(number):
        best = min(pool, key=crowding)
        pool.remove(best)
        chosen.append(best)
        for key in enumerate(best):
            used[key] = used.get(key, 0) + 1
    return chosen


def _main_world(style: str = "photo") -> World:
    rng = random.Random(7)
    held = held_out()
    base = _balanced([c for c in COMBINATIONS if c not in held], 24, rng)
    new = _balanced(sorted(held), 24, rng)
    classes = base + new
    return World(tuple(map(class_phrase, classes)), tuple((*c, 1) for c in classes), style)


def _count_world() -> World:
    shapes = [SHAPES.index(name) for name in ("star", "circle", "triangle", "heart", "cross", "ring")]
    classes = [(shape, count) for shape in shapes for count in range(1, len(NUMBERS) + 1)]
    names = [f"{NUMBERS[n - 1]} {SHAPES[s] if n == 1 else plural(SHAPES[s])}" for s, n in classes]
    attributes = tuple((s, ANY, ANY, n) for s, n in classes)
    return World(tuple(names), attributes, quirk=1.0)


@cache
def worlds() -> dict[str, World]:
    """All downstream worlds by name."""
    shapes, colours, surfaces = range(len(SHAPES)), range(len(COLOUR_NAMES)), range(len(SURFACES))
    form = World(SHAPES, tuple((s, ANY, ANY, 1) for s in shapes), scene=_NARROW_GAP, quirk=1.0)
    colour = World(tuple(f"{c} shape" for c in COLOUR_NAMES), tuple((ANY, c, ANY, 1) for c in colours))
    surface = World(tuple(f"{p} shape" for p in SURFACES), tuple((ANY, ANY, p, 1) for p in surfaces))
    pairs = list(product(colours, surfaces))
    names = tuple(f"{COLOUR_NAMES[c]} {SURFACES[p]} shape" for c, p in pairs)
    return {
        "shapes": _main_world(),
        "shapes_form": replace(form, per_class=(24, 12, 60)),
        "shapes_colour": replace(colour, per_class=(24, 12, 60)),
        "shapes_surface": replace(surface, per_class=(24, 16, 100)),
        "shapes_pair": World(names, tuple((ANY, c, p, 1) for c, p in pairs)),
        "shapes_count": _count_world(),
        **{f"shapes_{style}": _main_world(style) for style in STYLES[1:]},
    }


def world_spec(world: str) -> World:
    """Look a world up by name."""
    table = worlds()
    if world not in table:
        hint = did_you_mean(world, table)
        raise UserError(f"There is no shapes world {world!r}{hint}. Worlds: {', '.join(table)}.")
    return table[world]
