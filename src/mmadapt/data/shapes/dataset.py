"""`data=shapes` and its siblings: the rendered worlds as a few-shot data set; nothing to download."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from PIL import Image
from torch import Tensor

from mmadapt.data.base import FewShotData
from mmadapt.data.images import FileHashes, ImageSet
from mmadapt.data.shapes.identity import WORLDS
from mmadapt.data.shapes.worlds import CHUNK, Split, class_names, render_chunk, split_labels
from mmadapt.data.splits import Splits

_RENDERING = Lock()


@dataclass(frozen=True)
class RenderedImages:
    """The images of one split of a world, rendered when they are needed."""

    world: str
    split: Split

    def name(self, index: int) -> str:
        """Return world, split and number."""
        return f"{self.world}/{self.split}/{index:05d}"

    def identity(self, index: int, hashes: FileHashes) -> str:
        """Return a key that changes when the pixels of the world do, see `mmadapt.data.shapes.identity`."""
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
    """Objects of a colour, a surface and a shape before clutter; see `mmadapt.data.shapes.worlds`.

    In the world ``shapes`` the base classes are combinations that the embedded CLIP saw in pre-training, the
    new ones are combinations it never saw.
    """

    def __init__(self, *, world: str, **options: Any) -> None:
        """Bind a world.

        Args:
            world: Its name, ``shapes`` or one of the siblings and shift sets.
            options: See `FewShotData`.

        Raises:
            UserError: If there is no world of that name.
        """
        class_names(world)
        super().__init__(**options)
        self.world = world

    def read_splits(self) -> Splits:
        """Return the three splits; nothing is rendered yet."""
        train, val, test = (
            ImageSet.of(RenderedImages(self.world, split), split_labels(self.world, split).tolist())
            for split in ("train", "val", "test")
        )
        return Splits(class_names(self.world), train, val, test)
