"""Random crops and flips of a whole batch of images, as matrix products on the device that trains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode

from mmadapt.clip.transforms import ImageTransform, crop_box

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""


def random_views(
    images: Sequence[Tensor],
    transform: ImageTransform,
    scale: tuple[float, float],
    generator: torch.Generator,
    device: torch.device,
    share: slice = slice(None),
) -> Tensor:
    """Return one random view of each image (B, 3, H, W): random resized crop, flip, normalised.

    Args:
        images: Images (3, h, w) of any sizes, uint8.
        transform: Size, normalisation and interpolation of the image tower.
        scale: Range of the crop's area as a share of the image.
        generator: Source of the draws; on the CPU, so that they do not depend on the device.
        device: Where the views are computed.
        share: Which of the images are wanted; draws are made for all, so that shares make up the whole.
    """
    boxes = [crop_box(image.shape[1], image.shape[2], generator, scale) for image in images]
    flips = torch.rand(len(images), generator=generator) < 0.5
    images, boxes, flips = images[share], boxes[share], flips[share]
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    pixels = torch.zeros(len(images), 3, height, width, dtype=torch.uint8)
    for canvas, image in zip(pixels, images, strict=True):
        canvas[:, : image.shape[1], : image.shape[2]] = image
    views = crop_and_resize(pixels.to(device), boxes, transform.size, transform.interpolation)
    flips = flips.to(device)[:, None, None, None]
    return normalize(torch.where(flips, views.flip(-1), views), transform)


def normalize(pixels: Tensor, transform: ImageTransform) -> Tensor:
    """Return images (B, 3, H, W) with values in 0..255 as the tower wants them."""
    mean, std = (
        torch.tensor(values, device=pixels.device)[:, None, None]
        for values in (transform.mean, transform.std)
    )
    return (pixels.float() / 255 - mean) / std


def crop_and_resize(
    pixels: Tensor, boxes: Sequence[Box], size: tuple[int, int], interpolation: InterpolationMode
) -> Tensor:
    """Return the boxes of images (B, 3, h, w) at the wanted size (B, 3, H, W), antialiased, values in 0..255.

    The filter is separable, so a crop with a resize is one matrix product for the rows and one for the
    columns: the numbers of torchvision's ``resized_crop`` with antialiasing, for boxes of different sizes
    at once.
    """
    boxes_ = torch.tensor(boxes, dtype=torch.float32, device=pixels.device)
    rows = _filter(boxes_[:, 0], boxes_[:, 2], pixels.shape[2], size[0], interpolation)
    columns = _filter(boxes_[:, 1], boxes_[:, 3], pixels.shape[3], size[1], interpolation)
    resized = rows[:, None] @ pixels.float() @ columns[:, None].mT
    return resized.clamp(0, 255)


def _filter(
    start: Tensor, length: Tensor, inside: int, wanted: int, interpolation: InterpolationMode
) -> Tensor:
    """Return weights (B, wanted, inside) that resample ``length`` pixels from ``start`` on to ``wanted`` pixels."""
    step = (length / wanted)[:, None, None]
    width = step.clamp(min=1)
    centre = start[:, None, None] + (torch.arange(wanted, device=start.device)[:, None] + 0.5) * step
    pixel = torch.arange(inside, device=start.device) + 0.5
    distance = ((pixel - centre) / width).abs()
    weights = (
        _bicubic(distance) if interpolation == InterpolationMode.BICUBIC else (1 - distance).clamp(min=0)
    )
    first = start[:, None, None]
    weights = weights * ((pixel > first) & (pixel < first + length[:, None, None]))
    return weights / weights.sum(dim=-1, keepdim=True)


def _bicubic(x: Tensor) -> Tensor:
    """Return Keys' kernel with a = −1/2, that of PIL."""
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
