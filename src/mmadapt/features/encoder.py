"""Features of the frozen towers: encoded once, kept on disk, shared by all methods, shots and seeds."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.clip.onednn import packable, packed_copy
from mmadapt.clip.transforms import ImageTransform
from mmadapt.data.base import ClassSet, FewShotData
from mmadapt.data.images import BadImageError, FileHashes, ImageSet
from mmadapt.distributed import barrier, this_process
from mmadapt.errors import UserError, some
from mmadapt.features.pipeline import (
    Decoded,
    Item,
    batch_size,
    encode_images,
    encode_prompts,
    text_batch_size,
)
from mmadapt.features.store import FeatureStore
from mmadapt.progress import ProgressBar

log = logging.getLogger(__name__)

_SHARD = 4096


class FeatureSet(NamedTuple):
    """Features of labelled images.

    Attributes:
        image_features: Raw features (V, N, D) of V views of N images; V = 1 without augmentation.
        labels: Classes (N,).
    """

    image_features: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Views:
    """Which views of each training image a method sees.

    Attributes:
        count: Number of augmented views; 0 means the one test-time view.
        crop_scale: Range of the random crop's area as a share of the image.
    """

    count: int = 0
    crop_scale: tuple[float, float] = (0.08, 1.0)


class FeatureEncoder:
    """Encodes images and prompts with one backbone, through the store.

    Attributes:
        encoded: Number of images and prompts that really went through a tower, not through the store.
    """

    def __init__(self, clip: ClipBackbone, store: FeatureStore) -> None:
        """Bind the backbone and the store."""
        self.clip, self.store, self.encoded = clip, store, 0
        self._batch, self._packable = batch_size(clip), packable(clip)
        self._hashes = FileHashes(store.root)

    def image_features(
        self,
        images: ImageSet,
        views: Views = Views(),
        *,
        workers: int | None = None,
        skip_bad: bool = False,
        label: str = "images",
    ) -> FeatureSet:
        """Return raw features of all images, every view of each.

        View v of an image is drawn from a generator keyed by (image content, v), so it is the same for every
        method, number of shots and seed. Rows of undecodable images are NaN if ``skip_bad``; they are not
        stored, because the next run may be able to read them.

        Raises:
            BadImageError: If images cannot be decoded and ``skip_bad`` is False; raised when all others are
                encoded, so that it can name them all.
            UserError: If the tower overflows in its precision.
        """
        space = self._space("image", transform=dict(self.clip.transform.spec))
        if views.count:
            space["crop_scale"] = [float(bound) for bound in views.crop_scale]
        count, size = max(views.count, 1), len(images)
        identities = [self._identity(images, i, skip_bad) for i in range(size)]
        self._hashes.save()
        keys = [f"{identity}/{view}" for identity in identities for view in range(count)]
        decode = _Views(images, self.clip.transform, views, identities)

        def compute(missing: Sequence[int]) -> Iterator[Tensor]:
            items = [divmod(i, count) for i in missing]
            batches = encode_images(self._tower(), decode, items, self._batch, workers)
            return self._shards(batches, len(missing), f"encoding {label} with {self.clip.name}")

        rows = self.store.fetch(space, keys, compute).view(size, count, self.clip.dim)
        overflown = torch.isinf(rows[:, :, 0]).any(dim=1).nonzero().flatten().tolist()
        if overflown:
            raise UserError(
                f"The features of {_some(images, overflown)} are not finite in {self.clip.precision}. "
                "Use clip.precision=bf16 or fp32."
            )
        bad = _undecodable(rows.transpose(0, 1))
        if bad and not skip_bad:
            try:
                images.source.load(images.indices[bad[0]])
                reason = "It can be read now; run again."
            except BadImageError as error:
                reason = str(error)
            raise BadImageError(
                f"{len(bad)} of {size} images cannot be decoded: {_some(images, bad)}. {reason} "
                "Repair or remove them, or set data.on_bad_image=skip."
            )
        return FeatureSet(rows.transpose(0, 1).contiguous(), images.labels)

    def text_features(self, classes: ClassSet) -> Tensor:
        """Return one unit text feature per class, (C, D).

        Templates are averaged as in CLIP and Tip-Adapter: normalise each, average, normalise.
        """
        prompts = classes.prompts()
        flat = [prompt for row in prompts for prompt in row]

        def compute(missing: Sequence[int]) -> Iterator[Tensor]:
            tokens = self.clip.tokenize([flat[i] for i in missing])
            batches = encode_prompts(self._tower(), tokens)
            return self._shards(batches, len(missing), f"encoding prompts with {self.clip.name}")

        rows = self.store.fetch(self._space("text"), flat, compute)
        return average_prompts(F.normalize(rows, dim=-1), prompts)

    def _space(self, kind: str, **more: Any) -> dict[str, Any]:
        clip = self.clip
        # Kernels round differently, and are chosen by the size of a batch: one store row must not mix them.
        return {
            "kind": kind,
            "arch": clip.arch,
            "weights": clip.weights_hash,
            "precision": clip.precision,
            "device": clip.device.type,
            "kernels": "oneDNN" if self._packable else "torch",
            "batch": self._batch if kind == "image" else text_batch_size(clip),
            **more,
        }

    def _identity(self, images: ImageSet, position: int, skip_bad: bool) -> str:
        index = images.indices[position]
        try:
            return images.source.identity(index, self._hashes)
        except BadImageError:
            if not skip_bad:
                raise
            return f"unreadable {images.source.name(index)}"

    def _tower(self) -> ClipBackbone:
        """Return the backbone in its fastest form; made anew, because it holds its weights a second time."""
        return packed_copy(self.clip) if self._packable else self.clip

    def _shards(self, batches: Generator[Tensor], total: int, label: str) -> Iterator[Tensor]:
        bar, chunk = ProgressBar(label, total), []
        with closing(bar), closing(batches):
            for rows in batches:
                chunk.append(rows)
                bar.advance(len(rows))
                self.encoded += len(rows)
                if sum(map(len, chunk)) >= _SHARD:
                    yield torch.cat(chunk)
                    chunk = []
            if chunk:
                yield torch.cat(chunk)


def average_prompts(each: Tensor, prompts: Sequence[Sequence[str]]) -> Tensor:
    """Average the unit features of all prompts, class after class, to one unit feature per class, (C, D)."""
    counts = [len(row) for row in prompts]
    if len(set(counts)) == 1:
        mean = each.view(len(prompts), -1, each.shape[-1]).mean(dim=1)
    else:
        mean = torch.stack([rows.mean(dim=0) for rows in each.split(counts)])
    return F.normalize(mean, dim=-1)


class _Views:
    """Decodes and transforms views (i, v), view v of image i; threads may share it."""

    def __init__(
        self, images: ImageSet, transform: ImageTransform, views: Views, identities: Sequence[str]
    ) -> None:
        self.images, self.transform, self.views, self.identities = images, transform, views, identities

    def __call__(self, items: Sequence[Item]) -> Decoded:
        tensors, good = (
            torch.zeros(len(items), 3, *self.transform.size),
            torch.zeros(len(items), dtype=torch.bool),
        )
        last, image = -1, None
        for row, (position, view) in enumerate(items):
            if position != last:  # the views of an image follow each other: decode once
                last, image = position, self._load(position)
            if image is not None:
                tensors[row], good[row] = self._view(image, position, view), True
        return tensors, good

    def _load(self, position: int) -> Image.Image | None:
        try:
            return self.images.source.load(self.images.indices[position])
        except BadImageError:
            return None

    def _view(self, image: Image.Image, position: int, view: int) -> Tensor:
        if not self.views.count:
            return self.transform(image)
        seed = hashlib.blake2b(f"{self.identities[position]}/{view}".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
        return self.transform.view(image, generator, self.views.crop_scale)


def without_bad(features: FeatureSet, images: ImageSet, kind: str) -> tuple[FeatureSet, list[int]]:
    """Leave out images that could not be decoded; return their positions, too, and name the first five."""
    bad = _undecodable(features.image_features)
    if not bad:
        return features, bad
    log.warning("%d %s images cannot be decoded and are left out: %s", len(bad), kind, _some(images, bad))
    good = torch.ones(len(images), dtype=torch.bool)
    good[bad] = False
    return FeatureSet(features.image_features[:, good], features.labels[good]), bad


def _undecodable(image_features: Tensor) -> list[int]:
    return torch.isnan(image_features[:, :, 0]).any(dim=0).nonzero().flatten().tolist()


def _some(images: ImageSet, positions: Sequence[int]) -> str:
    return some(images.source.name(images.indices[i]) for i in positions)


@lru_cache(maxsize=8)
def open_store(root: Path) -> FeatureStore:
    """Return this process's one store below ``root``."""
    return FeatureStore(root)


def encode_split(
    encoder: FeatureEncoder, data: FewShotData, images: ImageSet, kind: str, views: Views = Views()
) -> tuple[FeatureSet, list[int]]:
    """Encode a split of a data set under its rules for workers and bad images; see `without_bad`."""
    skip = data.on_bad_image == "skip"
    rank, world_size = this_process()
    if world_size > 1:  # each process encodes its share into the store, and then reads what the others did
        mine = images.select(range(rank, len(images), world_size))
        encoder.image_features(
            mine, views, workers=data.num_workers, skip_bad=True, label=f"{data.name} {kind}"
        )
        barrier()
    features = encoder.image_features(
        images, views, workers=data.num_workers, skip_bad=skip, label=f"{data.name} {kind}"
    )
    return without_bad(features, images, kind)
