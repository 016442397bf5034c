"""Training images of the tiny CLIP: rendered on demand, kept in a pool, drawn in batches.

Everything here is a pure function of the recipe and of an index, which is what makes pre-training resumable.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from tiny_captions import SEEN_STYLES
from torch import Generator, Tensor

from mmadapt.clip.tiny import tiny_config
from mmadapt.data.shapes.geometry import SHAPES, SURFACES
from mmadapt.data.shapes.render import Scene, render
from mmadapt.data.shapes.specs import COLOUR_NAMES, COMBINATIONS, held_out

FULL = Scene()
EASY = Scene(
    scale=(0.66, 0.88), rotation=8.0, aspect=0.04, offset=0.15, background=0.2, clutter=0, occlusion=0.0,
    noise=(0.0, 0.01),
)  # fmt: skip
SPLITS = (len(SHAPES), len(COLOUR_NAMES), len(SURFACES))


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes:
        steps: Optimiser steps.
        batch: Images per step.
        seed: Seed of all draws.
        chunk: Images rendered at a time.
        every: Steps between two chunks.
        pool: Chunks kept for drawing batches.
        muon_lr: Learning rate of the matrices inside the transformers.
        adam_lr: Learning rate of everything else.
        scale_lr: Learning rate of the logit scale.
        decay: Weight decay of matrices.
        warmup: Steps of linear warm-up.
        flat: Steps before the learning rate starts to fall linearly to zero.
        horizon: Steps to which the next two entries refer.
        easy: Fractions of the horizon between which scenes go from easy to full difficulty.
        aux: Weight of the auxiliary losses at the start and at the horizon.
    """

    steps: int = 6000
    batch: int = 128
    seed: int = 0
    chunk: int = 256
    every: int = 4
    pool: int = 32
    muon_lr: float = 0.015
    adam_lr: float = 2e-3
    scale_lr: float = 5e-3
    decay: float = 0.02
    warmup: int = 200
    flat: int = 2800
    horizon: int = 9000
    easy: tuple[float, float] = (0.03, 0.30)
    aux: tuple[float, float] = (1.0, 0.05)


def generator(*key: int) -> Generator:
    """A private generator whose state depends on the key only."""
    return Generator().manual_seed(random.Random(repr(key)).getrandbits(62))


@dataclass(frozen=True)
class Chunk:
    """Images, uint8 (n, 3, 64, 64); attributes and style (n, 5); object share per patch (n, patches)."""

    images: Tensor
    attributes: Tensor
    coverage: Tensor


def draw_attributes(
    combinations: list[tuple[int, int, int]], number: int, multiple: float, g: Generator
) -> Tensor:
    """Random combinations with a count above one for the given share of them, int64 (number, 4)."""
    table = torch.tensor(combinations)[torch.randint(len(combinations), (number,), generator=g)]
    several = torch.rand(number, generator=g) < multiple
    count = torch.where(several, torch.randint(2, 5, (number,), generator=g), 1)
    return torch.cat([table, count[:, None]], 1)


def make_chunk(recipe: Recipe, index: int) -> Chunk:
    """Render one chunk of training images at the difficulty of its time."""
    start, end = recipe.easy
    progress = min(1.0, max(0.0, (index * recipe.every / recipe.horizon - start) / (end - start)))
    values = {}
    for name, full in asdict(FULL).items():
        easy = getattr(EASY, name)
        if isinstance(full, tuple):
            values[name] = tuple(a + (b - a) * progress for a, b in zip(easy, full, strict=True))
        else:
            values[name] = type(full)(easy + (full - easy) * progress)
    g = generator(recipe.seed, 1, index)
    seen = [combination for combination in COMBINATIONS if combination not in held_out()]
    attributes = draw_attributes(seen, recipe.chunk, 0.10 * progress, g)
    other = torch.randint(1, len(SEEN_STYLES), (recipe.chunk,), generator=g)
    style = torch.where(torch.rand(recipe.chunk, generator=g) < 0.16 * progress, other, 0)
    images, mask = render(attributes, style, g, Scene(**values))
    patch = tiny_config()["vision_cfg"]["patch_size"]
    coverage = F.avg_pool2d(mask[:, None], patch).flatten(1)
    return Chunk(images, torch.cat([attributes, style[:, None]], 1), coverage)


class Pool:
    """The most recent chunks, made on demand, from which batches are drawn."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._chunks: dict[int, Chunk] = {}

    def batch(self, step: int) -> Chunk:
        """The images of one step, each mirrored with probability one half."""
        recipe, last = self.recipe, step // self.recipe.every + 3
        live = range(max(0, last - recipe.pool + 1), last + 1)
        self._chunks = {i: self._chunks[i] if i in self._chunks else make_chunk(recipe, i) for i in live}
        g = generator(recipe.seed, 2, step)
        pick = torch.randint(len(live) * recipe.chunk, (recipe.batch,), generator=g).tolist()
        rows = [(self._chunks[live[p // recipe.chunk]], p % recipe.chunk) for p in pick]
        images = torch.stack([chunk.images[row] for chunk, row in rows])
        attributes = torch.stack([chunk.attributes[row] for chunk, row in rows])
        coverage = torch.stack([chunk.coverage[row] for chunk, row in rows])
        mirrored = torch.rand(recipe.batch, generator=g) < 0.5
        side = math.isqrt(coverage.shape[1])
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        squares = coverage.unflatten(1, (side, side))
        coverage = torch.where(mirrored[:, None, None], squares.flip(-1), squares).flatten(1)
        return Chunk(images, attributes, coverage)
