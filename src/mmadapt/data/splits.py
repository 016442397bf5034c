"""Which images a run sees: train, val and test, the draw of k shots, base and new classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mmadapt.data.draws import Sampling, draw_positions
from mmadapt.data.images import ImageSet
from mmadapt.errors import one_of

Subset = Literal["all", "base", "new"]
Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Splits:
    """The whole data set.

    Attributes:
        class_names: Name of each class, in label order.
        train: Images the shots are drawn from.
        val: Images the validation shots are drawn from.
        test: Images of the final score.
        class_ids: Unique key of each class where names are not unique (ImageNet's wnids); else empty.
        val_from_train: Whether ``val`` is ``train``: validation shots are then images that are not shots.
    """

    class_names: tuple[str, ...]
    train: ImageSet
    val: ImageSet
    test: ImageSet
    class_ids: tuple[str, ...] = ()
    val_from_train: bool = False


@dataclass(frozen=True)
class Draw:
    """The images of one run: their positions in train and val, and a hash of their names and labels, in order."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    sha256: str


def draw(splits: Splits, shots: int, val_shots: int | None, seed: int, sampling: Sampling = "coop") -> Draw:
    """Draw the shots of every class as the published codes do; see `mmadapt.data.draws`.

    The generator is private, so nothing that ran before can move the draw.
    """
    val = None if splits.val_from_train else splits.val.labels.tolist()
    train = splits.train.labels.tolist()
    return as_draw(splits, *draw_positions(train, val, shots, val_shots, seed, sampling))


def as_draw(splits: Splits, train: Sequence[int], val: Sequence[int]) -> Draw:
    """Return the draw of these positions, with its hash."""
    digest = hashlib.sha256()
    for images in (splits.train.select(train), splits.val.select(val)):
        for name, label in zip(images.names(), images.labels.tolist(), strict=True):
            digest.update(f"{label}\t{name}\n".encode(errors="surrogatepass"))
        digest.update(b"--\n")
    return Draw(tuple(train), tuple(val), digest.hexdigest())


def split_off(keys: Sequence[str], test_share: float, val_share: float) -> list[Split]:
    """Split the images of one class by the hash of their keys, the same on every machine and for every seed.

    The result does not depend on the order of the keys, and an image more moves few others. A class keeps one
    training image; with three it has a test and a validation image too.

    Args:
        keys: What names each image within its class, and the class, (N,).
        test_share: Share of test images; 0 splits none off.
        val_share: Share of validation images; 0 splits none off.
    """
    count, test, val = len(keys), 0, 0
    if test_share:
        test = min(max(1, int(count * test_share + 0.5)), count - 1)
    if val_share:
        val = min(max(1, int(count * val_share + 0.5)), count - 1 - (1 if test else 0))
        test = min(test, count - 1 - val)
    ranked = sorted(
        range(count), key=lambda i: (hashlib.sha256(keys[i].encode(errors="surrogatepass")).digest(), keys[i])
    )
    parts: list[Split] = ["train"] * count
    for rank, i in enumerate(ranked[: test + val]):
        parts[i] = "test" if rank < test else "val"
    return parts


def subset_classes(classes: int, subset: str) -> range:
    """Return the labels of all, base or new classes; base is the first half, the larger one if odd."""
    half = (classes + 1) // 2
    ranges = {"all": range(classes), "base": range(half), "new": range(half, classes)}
    one_of("data.subset", subset, ranges)
    return ranges[subset]
