"""Plain batches of images and labels, for any Lightning trainer; runs of the command hold features in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from mmadapt.data.images import BadImageError, ImageSet
from mmadapt.data.threads import cores, ordered_map

Item = tuple[Tensor, Tensor]
Transform = Callable[[Image.Image], Tensor]


class Images(Dataset[Item]):
    """Decoded images (3, H, W) with their labels; a batch is decoded by several threads at once."""

    def __init__(
        self,
        images: ImageSet,
        transform: Transform,
        on_bad_image: Literal["error", "skip"] = "error",
        workers: int | None = None,
    ) -> None:
        """Bind the images and what makes a tensor of each; `FewShotData` describes the other two."""
        self.images, self.transform, self.on_bad_image = images, transform, on_bad_image
        self.workers = cores() if workers is None else workers

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Item:
        return self.transform(self.images.source.load(self.images.indices[position])), self.images.labels[
            position
        ]

    def __getitems__(self, positions: Sequence[int]) -> list[Item]:
        items = ordered_map(self._item, positions, min(self.workers, len(positions)))
        return [item for item in items if item is not None]

    def _item(self, position: int) -> Item | None:
        try:
            return self[position]
        except BadImageError:
            if self.on_bad_image == "skip":
                return None
            raise


def image_loader(
    dataset: Images, batch_size: int, *, shuffle: bool = False, seed: int = 0
) -> DataLoader[Item]:
    """Return a loader of batches (B, 3, H, W) and labels (B,); the order depends on ``seed`` and epoch alone."""
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        dataset, batch_size=batch_size, shuffle=shuffle, generator=generator, collate_fn=_collate
    )


def _collate(items: list[Item]) -> list[Tensor]:
    if not items:
        raise BadImageError("No image of a batch can be decoded. Repair or remove them.")
    batch: list[Tensor] = default_collate(items)
    return batch
