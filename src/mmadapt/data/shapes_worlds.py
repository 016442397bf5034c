"""Downstream worlds of rendered shapes: labelled image sets unlike those the tiny CLIP was trained on.

They stand in for the photographic benchmarks where no download is possible.  Two gaps separate them from the
pre-training images.  One is shared: smaller objects, more clutter and occlusion, a warm cast.  The other
belongs to each class, which has its own consistent size, tilt, proportion, tone, backdrop and small second
object.

Images are rendered in chunks of fixed size, each from a generator of its own, so that any part of a split can
be had in any order and always with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import Generator, Tensor

from mmadapt.data.shapes_geometry import SHAPES, SURFACES
from mmadapt.data.shapes_render import STYLES, Quirks, Scene, render
from mmadapt.data.shapes_words import (
    COLOUR_NAMES,
    COMBINATIONS,
    NUMBERS,
    Combination,
    class_phrase,
    held_out,
    plural,
)

Split = Literal["train", "val", "test"]

CHUNK = 256
ANY = -1

_GAP = Scene(
    scale=(0.38, 0.66),
    rotation=35.0,
    offset=0.42,
    clutter=5,
    clutter_size=(0.05, 0.16),
    occlusion=0.35,
    frequency=(2.1, 3.0),
    mix=(0.50, 0.75),
    noise=(0.01, 0.05),
    warmth=0.6,
    inflate=0.02,
)
# Everything that decides the bits of a world, apart from its specification.
_SOURCES = ("shapes_geometry.py", "shapes_render.py", "shapes_words.py", "shapes_worlds.py")


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
        seed: Seed of images and quirks.
    """

    names: tuple[str, ...]
    attributes: tuple[tuple[int, int, int, int], ...]
    style: str = "photo"
    scene: Scene = _GAP
    quirk: float = 1.0
    per_class: tuple[int, int, int] = (24, 8, 25)
    seed: int = 0


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


def _main_world(style: str = "photo", seed: int = 0) -> World:
    rng = random.Random(7)
    held = held_out()
    base = _balanced([c for c in COMBINATIONS if c not in held], 24, rng)
    new = _balanced(sorted(held), 24, rng)
    classes = base + new
    return World(tuple(map(class_phrase, classes)), tuple((*c, 1) for c in classes), style, seed=seed)


def _count_world(seed: int = 0) -> World:
    shapes = [SHAPES.index(name) for name in ("star", "circle", "triangle", "heart", "cross", "ring")]
    classes = [(shape, count) for shape in shapes for count in range(1, len(NUMBERS) + 1)]
    names = [f"{NUMBERS[n - 1]} {SHAPES[s] if n == 1 else plural(SHAPES[s])}" for s, n in classes]
    return World(tuple(names), tuple((s, ANY, ANY, n) for s, n in classes), seed=seed)


@cache
def worlds(seed: int = 0) -> dict[str, World]:
    """All downstream worlds by name; another seed gives other images and quirks of the same classes."""
    pairs = [(colour, surface) for colour in range(len(COLOUR_NAMES)) for surface in range(len(SURFACES))]
    table = {
        "shapes": _main_world(seed=seed),
        "shapes_form": World(
            SHAPES, tuple((s, ANY, ANY, 1) for s in range(len(SHAPES))), per_class=(24, 12, 60), seed=seed
        ),
        "shapes_colour": World(
            tuple(f"{name} shape" for name in COLOUR_NAMES),
            tuple((ANY, c, ANY, 1) for c in range(len(COLOUR_NAMES))),
            per_class=(24, 12, 60),
            seed=seed,
        ),
        "shapes_surface": World(
            tuple(f"{name} shape" for name in SURFACES),
            tuple((ANY, ANY, p, 1) for p in range(len(SURFACES))),
            per_class=(24, 16, 100),
            seed=seed,
        ),
        "shapes_pair": World(
            tuple(f"{COLOUR_NAMES[c]} {SURFACES[p]} shape" for c, p in pairs),
            tuple((ANY, c, p, 1) for c, p in pairs),
            seed=seed,
        ),
        "shapes_count": _count_world(seed),
    }
    for style in STYLES[1:]:
        table[f"shapes_{style}"] = _main_world(style, seed)
    return table


def world_spec(world: str) -> World:
    """Look a world up by name.

    Raises:
        ValueError: If there is no such world.
    """
    table = worlds()
    if world not in table:
        close = get_close_matches(world, table, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no shapes world named {world!r}{hint} There are: {', '.join(table)}")
    return table[world]


def class_names(world: str) -> tuple[str, ...]:
    """Class names in label order; the first half are the base classes."""
    return world_spec(world).names


def split_size(spec: World, split: Split) -> int:
    """Number of images in a split.

    Raises:
        ValueError: If there is no such split.
    """
    splits = ("train", "val", "test")
    if split not in splits:
        raise ValueError(f"no split named {split!r}; there are: {', '.join(splits)}")
    return len(spec.names) * spec.per_class[splits.index(split)]


def split_labels(world: str, split: Split) -> Tensor:
    """Labels of a split without rendering it, int64 (N,); every run of C neighbours holds each class once."""
    spec = world_spec(world)
    return torch.arange(split_size(spec, split)) % len(spec.names)


def identity(world: str) -> str:
    """Content hash that changes with the world's specification and with the code that renders it."""
    digest = hashlib.sha256(repr(world_spec(world)).encode())
    for name in _SOURCES:
        digest.update((Path(__file__).parent / name).read_bytes())
    return digest.hexdigest()


def _generator(*key: object) -> Generator:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _quirks(spec: World) -> Quirks:
    """One row per class, drawn from its name, so that shift sets share the looks of their classes."""
    rows = []
    for name in spec.names:
        rng = random.Random(f"{spec.seed}/{name}")
        around = math.pi * rng.uniform(-1, 1)
        rows.append(
            [
                math.exp(spec.quirk * rng.uniform(-0.25, 0.15)),
                spec.quirk * math.radians(35) * rng.uniform(-1, 1),
                math.exp(spec.quirk * rng.uniform(-0.2, 0.2)),
                *(spec.quirk * 0.14 * rng.uniform(-1, 1) for _ in range(3)),
                *(spec.quirk * 0.12 * rng.uniform(-1, 1) for _ in range(3)),
                rng.randrange(len(SHAPES)) if rng.random() < 0.7 * spec.quirk else -1,
                0.74 * math.cos(around),
                0.74 * math.sin(around),
                *(rng.uniform(0.1, 0.9) for _ in range(3)),
            ]
        )
    table = torch.tensor(rows)
    return Quirks(
        size=table[:, 0],
        turn=table[:, 1],
        stretch=table[:, 2],
        tone=table[:, 3:6],
        backdrop=table[:, 6:9],
        companion=table[:, 9].long(),
        place=table[:, 10:12],
        companion_colour=table[:, 12:15],
    )


def render_part(spec: World, name: str, split: Split, chunk: int) -> tuple[Tensor, Tensor]:
    """Render one chunk of a split of a specification; see `render_chunk`."""
    size = split_size(spec, split)
    start = chunk * CHUNK
    if not 0 <= start < size:
        raise ValueError(f"{name}/{split} has {math.ceil(size / CHUNK)} chunks, none with index {chunk}")
    labels = torch.arange(start, min(start + CHUNK, size)) % len(spec.names)
    generator = _generator(name, spec.seed, split, chunk)
    attributes = torch.tensor(spec.attributes)[labels]
    ends = torch.tensor([len(SHAPES), len(COLOUR_NAMES), len(SURFACES), 1])
    drawn = (torch.rand(len(labels), 4, generator=generator) * ends).long()
    attributes = torch.where(attributes == ANY, drawn, attributes)
    style = torch.full((len(labels),), STYLES.index(spec.style))
    images, _ = render(attributes, style, generator, spec.scene, _quirks(spec).take(labels))
    return images, labels


def render_chunk(world: str, split: Split, chunk: int) -> tuple[Tensor, Tensor]:
    """Render one chunk of a split.

    Args:
        world: Name of a world.
        split: "train", "val" or "test".
        chunk: Index of the chunk; all but the last hold `CHUNK` images.

    Returns:
        Images, uint8 (n, 3, 64, 64), and labels, int64 (n,).

    Raises:
        ValueError: If the split has no such chunk.
    """
    return render_part(world_spec(world), world, split, chunk)


def split_images(world: str, split: Split) -> tuple[Tensor, Tensor]:
    """Render a whole split: images, uint8 (N, 3, 64, 64), and labels, int64 (N,)."""
    number = math.ceil(split_size(world_spec(world), split) / CHUNK)
    images, labels = zip(*(render_chunk(world, split, chunk) for chunk in range(number)), strict=True)
    return torch.cat(images), torch.cat(labels)
