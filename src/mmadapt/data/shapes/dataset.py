"""`data=shapes` and its siblings: the rendered worlds as a few-shot data set; nothing to download.

Images are rendered in chunks of fixed size, each from a generator of its own, so that any part of a split can
be had in any order and always with the same bits.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

import torch
from PIL import Image
from torch import Generator, Tensor

from mmadapt.data.base import FewShotData
from mmadapt.data.images import FileHashes, ImageSet
from mmadapt.data.shapes.geometry import SHAPES, SURFACES
from mmadapt.data.shapes.render import STYLES, Quirks, render
from mmadapt.data.shapes.specs import ANY, COLOUR_NAMES, World, world_spec
from mmadapt.data.splits import Split, Splits
from mmadapt.errors import UserError, did_you_mean

WORLDS = {
    "shapes": "6838b0b1efa7f32d89bedbaeb1f9ec8bd46ad4f264fb79cb12d4971e1af5cd63",
    "shapes_form": "9198c02b85a6aa5d4f3b5d98692089a5e6d2e2eaa71adaea56bbab03258eb55f",
    "shapes_colour": "3d00e0b115801f1b9cde8de9f187632369f2b51bf8923c8a51ca56f14dcffcdf",
    "shapes_surface": "4cc25596c371271bb01d4a2cb436f1a59ad10f7f3ab292f0f72f75d49f0c0e2e",
    "shapes_pair": "bf910d0223be7f285dfd77cd465ffaffaa7d69443bda07a1d28922d86ce0af53",
    "shapes_count": "8a9f9e5c4acd9456c748e2b4d20dd12feb278a3c8e8463a565c396a2f8e191ba",
    "shapes_sketch": "9e61d2dfeb0550738b81c9deb2f1a0f38a7a1ef64b106d497493940df99289fa",
    "shapes_night": "346086730d17fd5d6dcd7ce3b8823a3c71fd95fbc87dd63a26dd739f88688ce4",
    "shapes_blurry": "2d58ec013a7119de6489f04796ac3e7c6c0dcba42f60e89e606f910cb9f06194",
    "shapes_noise": "35d7535d7334b3f6804600bd6ddcfee730e915bc2e20c0ce54302cae6c99e466",
    "shapes_inverted": "fb91bba576fdc12c495521be807d18c05711feac570ebbfa12ccb9607607e25c",
    "shapes_pixelated": "9899700d6e592c0924cd391397e50dde410b3997d9585417bd37c7f5a8660aca",
    "shapes_foggy": "40167ef61ed1c9fb33893ae0d7e657ff26b9f0aed9b7adfaa890b4565dce8539",
}
"""What each world is called where its images are stored and their augmented views are drawn.

The literals are names of pixels, not of code: features on disk and the seeds of views hang on them, so a change of
source that leaves the pixels as they are must leave them too. Whoever changes the pixels of a world gives it another
literal; ``tests/data/worlds.png`` shows whether they changed.
"""
_RENDERING = Lock()
CHUNK = 256


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
        rng = random.Random(f"0/{name}")
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
    size, turn, stretch, tone, backdrop, companion, place, colour = torch.tensor(rows).split(
        [1, 1, 1, 3, 3, 1, 2, 3], dim=1
    )
    looks = size[:, 0], turn[:, 0], stretch[:, 0], tone, backdrop
    return Quirks(*looks, companion[:, 0].long(), place, colour)


def render_chunk(world: str, split: Split, chunk: int) -> tuple[Tensor, Tensor]:
    """Render one chunk of a split: images, uint8 (n, 3, 64, 64), and labels, int64 (n,).

    All chunks but the last hold `CHUNK` images.
    """
    spec = world_spec(world)
    chunks = split_labels(world, split).split(CHUNK)
    if not 0 <= chunk < len(chunks):
        raise IndexError(f"{world}/{split} has {len(chunks)} chunks, none with index {chunk}")
    labels = chunks[chunk]
    generator = _generator(world, 0, split, chunk)
    attributes = torch.tensor(spec.attributes)[labels]
    ends = torch.tensor([len(SHAPES), len(COLOUR_NAMES), len(SURFACES), 1])
    drawn = (torch.rand(len(labels), 4, generator=generator) * ends).long()
    attributes = torch.where(attributes == ANY, drawn, attributes)
    style = torch.full((len(labels),), STYLES.index(spec.style))
    images, _ = render(attributes, style, generator, spec.scene, _quirks(spec).take(labels))
    return images, labels


@dataclass(frozen=True)
class RenderedImages:
    """The images of one split of a world, rendered when they are needed."""

    world: str
    split: Split

    def name(self, index: int) -> str:
        """Return world, split and number."""
        return f"{self.world}/{self.split}/{index:05d}"

    def identity(self, index: int, hashes: FileHashes) -> str:
        """Return a key that changes when the pixels of the world do, see `WORLDS`."""
        return f"{WORLDS[self.world]}/{self.split}/{index}"

    def load(self, index: int) -> Image.Image:
        """Render the chunk that holds the image, unless it was the last one."""
        with _RENDERING:  # threads that want the same chunk must not each render it
            chunk = _chunk(self.world, self.split, index // CHUNK)
        return Image.fromarray(chunk[index % CHUNK].permute(1, 2, 0).numpy())


@lru_cache(maxsize=32)
def _chunk(world: str, split: Split, number: int) -> Tensor:
    return render_chunk(world, split, number)[0]


class ShapesData(FewShotData):
    """Objects of a colour, a surface and a shape before clutter; see `mmadapt.data.shapes.specs`.

    In the world ``shapes`` the base classes are combinations that the embedded CLIP saw in pre-training, the
    new ones are combinations it never saw.
    """

    def __init__(self, *, world: str, **options: Any) -> None:
        """Bind a world.

        Args:
            world: Its name, ``shapes`` or one of the siblings and shift sets.
            options: See `FewShotData`.
        """
        super().__init__(**options)
        self.world, self.spec = world, world_spec(world)

    def read_splits(self) -> Splits:
        """Return the three splits; nothing is rendered yet."""
        train, val, test = (
            ImageSet.of(RenderedImages(self.world, split), split_labels(self.world, split).tolist())
            for split in ("train", "val", "test")
        )
        return Splits(self.spec.names, train, val, test)
