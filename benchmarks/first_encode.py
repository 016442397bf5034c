"""First encode: images to stored features against the plain open_clip loop, and against the forward pass alone.

Run ``python -m benchmarks.first_encode`` from the top of the checkout. Both sides read the same JPEG files with
the same weights (ViT-B/32, random) in float32. References: (a) preprocess one by one, then ``encode_image``, in
batches of 64; (b) the same behind a DataLoader with two workers. Ours hashes the files, encodes and writes the
store. The pure forward rate is that of our own, faster tower, on tensors, with all of torch's threads. Overlap is
a matter of wall time, so all cores are used and both times are stored; sides take turns in each round. The hash of
the weights, taken once per process, is not in it. On a shared machine wall ratios are provisional: look at the
load and at the ratio of CPU times.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.common import Outcome, relative, store
from mmadapt.clip import ClipBackbone
from mmadapt.clip.onednn import packable, packed_copy
from mmadapt.data.images import FileHashes, ImageFiles, ImageSet
from mmadapt.features.encoder import FeatureEncoder
from mmadapt.features.pipeline import batch_size
from mmadapt.features.store import FeatureStore

ARCH, BATCH, WIDTH, HEIGHT, LIMIT = "ViT-B-32", 64, 500, 375, 1e-5
Side = Callable[[], Tensor]


def write_images(folder: Path, count: int) -> ImageSet:
    """Write pictures whose spectrum falls off as a photograph's does, about 60 KB each."""
    for number in range(count):
        rng = np.random.default_rng(number)
        picture = np.zeros((HEIGHT, WIDTH, 3))
        for cells in (4, 8, 16, 32, 64, 128, 256):
            layer = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
            grown = Image.fromarray(layer).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
            picture += np.asarray(grown, dtype=float) * cells**-0.6
        pixels = (picture / picture.max() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    return ImageSet.of(ImageFiles(folder, tuple(f"{number}.jpg" for number in range(count))), [0] * count)


class _Files:
    """The reference's data set."""

    def __init__(self, images: ImageSet, preprocess: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.preprocess = images, preprocess

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, position: int) -> Tensor:
        with Image.open(self.images.source.root / self.images.names()[position]) as image:
            return self.preprocess(image.convert("RGB"))


class _Ready:
    """Tensors in the place of images, and a transform that leaves them alone."""

    def __init__(self, tensors: Tensor, clip: ClipBackbone) -> None:
        self.tensors, self.size, self.spec = tensors, clip.transform.size, clip.transform.spec

    def name(self, index: int) -> str:
        return str(index)

    def identity(self, index: int, hashes: FileHashes) -> str:
        return str(index)

    def load(self, index: int) -> Tensor:
        return self.tensors[index]

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor


@torch.no_grad()
def forward(clip: ClipBackbone, batches: Iterator[Tensor] | DataLoader[Tensor]) -> Tensor:
    """Return features of batches of tensors."""
    return torch.cat([clip.model.encode_image(batch) for batch in batches])


def ours(clip: ClipBackbone, images: ImageSet, workers: int | None = None) -> Tensor:
    """Return features through an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = FeatureEncoder(clip, FeatureStore(Path(folder)))
        return encoder.image_features(images, workers=workers).image_features[0]


@contextmanager
def _transform(clip: ClipBackbone, transform: object) -> Iterator[None]:
    before, clip.transform = clip.transform, transform  # type: ignore[assignment]
    try:
        yield
    finally:
        clip.transform = before


def sides(clip: ClipBackbone, images: ImageSet) -> dict[str, Side]:
    """Return what takes turns."""
    files = _Files(images, clip.transform._test)
    tensors = torch.stack([files[i] for i in range(len(files))])
    ready = _Ready(tensors, clip)
    resident = ImageSet(ready, images.indices, images.labels)  # type: ignore[arg-type]
    tower = packed_copy(clip) if packable(clip) else clip

    def plain() -> Tensor:
        starts = range(0, len(files), BATCH)
        ends = ((start, min(start + BATCH, len(files))) for start in starts)
        return forward(clip, (torch.stack([files[i] for i in range(*bounds)]) for bounds in ends))

    def decoded() -> Tensor:
        with _transform(clip, ready):
            return ours(clip, resident)

    return {
        "plain loop": plain,
        "DataLoader, 2 workers": lambda: forward(clip, DataLoader(files, BATCH, num_workers=2)),  # type: ignore[arg-type]
        "ours": lambda: ours(clip, images),
        "forward of our tower": lambda: forward(tower, iter(tensors.split(batch_size(clip)))),
        "ours, decoded before": decoded,
    }


def clock(side: Side) -> tuple[float, float]:
    """Return wall and CPU seconds, those of worker processes included."""
    wall, cpu = time.perf_counter(), _cpu()
    side()
    return time.perf_counter() - wall, _cpu() - cpu


def _cpu() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=128)
    arguments = parser.parse_args()
    clip = ClipBackbone(ARCH, None)
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder), arguments.images)
        turns = sides(clip, images)
        expected = turns["plain loop"]()
        errors = {name: relative([side()], [expected]) for name, side in turns.items()}
        same = ours(clip, images, workers=0), turns["ours, decoded before"]()
        errors["ours"] = max(errors["ours"], *(0.0 if torch.equal(turns["ours"](), s) else 1.0 for s in same))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
        for _ in range(arguments.rounds):
            for name, side in turns.items():
                times[name].append(clock(side))
    outcomes = []
    for reference, candidate, goal in (
        ("plain loop", "ours", 1.3),
        ("DataLoader, 2 workers", "ours", 1.3),
        ("forward of our tower", "ours, decoded before", 0.85),
    ):
        for kind, column in (("wall", 0), ("CPU", 1)):
            slow, fast = ([pair[column] for pair in times[name]] for name in (reference, candidate))
            outcome = Outcome(f"{candidate} / {reference}, {kind}", errors[candidate], LIMIT, goal)
            if outcome.error <= LIMIT:
                outcome.ratios = [a / b for a, b in zip(slow, fast, strict=True)]
                outcome.seconds = statistics.median(slow), statistics.median(fast)
                outcome.load = os.getloadavg()[0]
            print(str(outcome).replace(" s CPU", f" s {kind}"), flush=True)
            outcomes.append(outcome)
    details = {"images": arguments.images, "threads": torch.get_num_threads(), "kernels": packable(clip)}
    print(f"stored in {store('first_encode', outcomes, **details)}")


if __name__ == "__main__":
    main()
