"""Images of the downstream worlds in chunks and splits.

Images are rendered in chunks of fixed size, each from a generator of its own, so that any part of a split can
be had in any order and always with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import random
from typing import Literal

import torch
from torch import Generator, Tensor

from mmadapt.data.shapes.geometry import SHAPES, SURFACES
from mmadapt.data.shapes.render import STYLES, Quirks, render
from mmadapt.data.shapes.specs import ANY, COLOUR_NAMES, World, world_spec
from mmadapt.errors import UserError, did_you_mean

Split = Literal["train", "val", "test"]

CHUNK = 256


def class_names(world: str) -> tuple[str, ...]:
    """Class names in label order; the first half are the base classes."""
    return world_spec(world).names


def split_labels(world: str, split: Split) -> Tensor:
    """Labels of a split without rendering it, int64 (N,); every run of C neighbours holds each class once."""
    spec, splits = world_spec(world), ("train", "val", "test")
    if split not in splits:
        raise UserError(
            f"There is no split {split!r}{did_you_mean(split, splits)}. Splits: {', '.join(splits)}."
        )
    return torch.arange(len(spec.names)).repeat(spec.per_class[splits.index(split)])


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


def render_chunk(world: str, split: Split, chunk: int) -> tuple[Tensor, Tensor]:
    """Render one chunk of a split.

    Args:
        world: Name of a world.
        split: "train", "val" or "test".
        chunk: Index of the chunk; all but the last hold `CHUNK` images.

    Returns:
        Images, uint8 (n, 3, 64, 64), and labels, int64 (n,).

    Raises:
        IndexError: If the split has no such chunk.
    """
    spec = world_spec(world)
    chunks = split_labels(world, split).split(CHUNK)
    if not 0 <= chunk < len(chunks):
        raise IndexError(f"{world}/{split} has {len(chunks)} chunks, none with index {chunk}")
    labels = chunks[chunk]
    generator = _generator(world, spec.seed, split, chunk)
    attributes = torch.tensor(spec.attributes)[labels]
    ends = torch.tensor([len(SHAPES), len(COLOUR_NAMES), len(SURFACES), 1])
    drawn = (torch.rand(len(labels), 4, generator=generator) * ends).long()
    attributes = torch.where(attributes == ANY, drawn, attributes)
    style = torch.full((len(labels),), STYLES.index(spec.style))
    images, _ = render(attributes, style, generator, spec.scene, _quirks(spec).take(labels))
    return images, labels
