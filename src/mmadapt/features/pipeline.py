"""The pass of images and prompts through the frozen towers: decoding and encoding overlap.

On a CPU each thread decodes a batch and encodes it with one torch thread: no thread waits for another, and a
feature does not depend on the number of cores. On a GPU threads decode, this one feeds the device.

A row may depend on the size of the batch it is computed in, which kernels are chosen by, but on nothing else: the
last batch is filled up. So `batch_size` is part of the identity of stored features.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.threads import cores, ordered_map

Decoded = tuple[Tensor, Tensor]
"""Images (B, 3, H, W), and which of them could be decoded (B,)."""
Item = tuple[int, int]
"""Position of an image and number of its view."""

GPU_BATCH, CPU_TEXT_BATCH = 256, 8
_MAX_DECODERS, _DECODED_AT_ONCE = 16, 32
S = TypeVar("S")


def batch_size(clip: ClipBackbone) -> int:
    """Return the number of images per call of the tower, chosen without a clock so that it is found again.

    On a CPU 8 images of 224 pixels, fewer of larger ones: activations stay in the cache; 4 to 16 are equally
    fast. On a GPU 256, halved until a batch fits into the memory that is free.
    """
    height, width = clip.transform.size
    if clip.device.type == "cpu":
        return max(2, min(64, 8 * 224 * 224 // (height * width)))
    size = GPU_BATCH
    while size > 1:
        try:
            with torch.no_grad():
                clip.encode_image(torch.zeros(size, 3, height, width))
            break
        except torch.OutOfMemoryError:
            size //= 2
    torch.cuda.empty_cache()
    return size


def encode_images(
    clip: ClipBackbone,
    decode: Callable[[Sequence[Item]], Decoded],
    items: Sequence[Item],
    batch: int,
    workers: int | None,
) -> Generator[Tensor]:
    """Yield the features of all items, batch after batch, (at most ``batch``, D).

    Rows that are not finite are +inf, rows of images that could not be decoded NaN.

    Args:
        clip: The backbone.
        decode: Makes tensors of items; called from several threads.
        items: What to encode.
        batch: Size of every batch that the tower sees.
        workers: Number of threads; 0 does everything in the calling one, None takes torch's number of threads
            on a CPU, the number of cores, at most 16, on a GPU.
    """
    if clip.device.type == "cpu":

        def both(part: Sequence[Item]) -> Tensor:
            images, good = decode(part)
            return _checked(_encode(clip, images, batch), good)

        parts = _split(items, batch)
        yield from ordered_map(both, parts, _threads(workers, torch.get_num_threads(), len(parts)))
        return
    parts = _split(items, min(batch, _DECODED_AT_ONCE))
    yield from _staged(clip, decode, parts, batch, _threads(workers, min(_MAX_DECODERS, cores()), len(parts)))


def text_batch_size(clip: ClipBackbone) -> int:
    """Return the number of prompts per call of the text tower."""
    return CPU_TEXT_BATCH if clip.device.type == "cpu" else GPU_BATCH


def encode_prompts(clip: ClipBackbone, tokens: Tensor) -> Generator[Tensor]:
    """Yield the features of token rows (N, L), batch after batch."""
    batch = text_batch_size(clip)

    def encode(part: Tensor) -> Tensor:
        with torch.no_grad():
            filled = torch.cat([part, part[:1].expand(batch - len(part), -1)])
            return clip.encode_text(filled)[: len(part)].cpu()

    parts = tokens.split(batch) if len(tokens) else ()
    workers = min(torch.get_num_threads(), len(parts)) if clip.device.type == "cpu" else 0
    yield from ordered_map(encode, parts, workers)


def _staged(
    clip: ClipBackbone,
    decode: Callable[[Sequence[Item]], Decoded],
    parts: Sequence[Sequence[Item]],
    batch: int,
    workers: int,
) -> Iterator[Tensor]:
    """Decode in threads, encode here; the device computes a batch while the next is put together."""
    on_device: deque[Decoded] = deque()
    waiting: list[Decoded] = []
    with closing(ordered_map(decode, parts, workers, ahead=2 * workers + 1)) as decoded:
        for number, part in enumerate(decoded, start=1):
            waiting.append(part)
            if number < len(parts) and sum(len(images) for images, _ in waiting) < batch:
                continue
            images, good = (torch.cat(column) for column in zip(*waiting, strict=True))
            waiting = []
            if clip.device.type == "cuda":
                images = images.pin_memory().to(clip.device, non_blocking=True)
            on_device.append((_encode(clip, images, batch), good))
            if len(on_device) > 1:
                yield _checked(*on_device.popleft())
    while on_device:
        yield _checked(*on_device.popleft())


@torch.no_grad()
def _encode(clip: ClipBackbone, images: Tensor, batch: int) -> Tensor:
    filled = F.pad(images, (0,) * 7 + (batch - len(images),)) if len(images) < batch else images
    return clip.encode_image(filled)[: len(images)]


def _checked(rows: Tensor, good: Tensor) -> Tensor:
    rows = rows.to("cpu", copy=True)
    rows[~rows.isfinite().all(dim=1)] = torch.inf
    rows[~good] = torch.nan
    return rows


def _split(items: Sequence[S], size: int) -> list[Sequence[S]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _threads(wanted: int | None, default: int, parts: int) -> int:
    return min(default if wanted is None else wanted, parts)
