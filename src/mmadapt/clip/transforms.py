"""From a PIL image to the tensor that an image tower reads: the test transform and augmented views."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF


class ImageTransform:
    """The preprocessing of one CLIP model (OpenAI's for OpenAI weights) and its random views.

    Test: resize the shorter side, centre crop, normalise. The aspect ratio is kept; squashing instead costs
    2-3 points. View: random resized crop and horizontal flip, the augmentation of the few-shot papers.

    Attributes:
        spec: Plain description of the transform, part of the identity of stored features.
    """

    def __init__(self, test: Callable[[Image.Image], Tensor], preprocess: Mapping[str, Any]) -> None:
        """Bind the model's own test transform and its preprocess configuration (size, mean, std, ...)."""
        size = preprocess["size"]
        self.size: tuple[int, int] = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        self.mean, self.std = list(preprocess["mean"]), list(preprocess["std"])
        self.interpolation = InterpolationMode(preprocess.get("interpolation", "bicubic"))
        self.spec: dict[str, Any] = {key: preprocess[key] for key in sorted(preprocess)}
        self._test = test

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the test-time tensor (3, H, W) of an RGB image."""
        return self._test(image)

    def view(self, image: Image.Image, generator: torch.Generator, scale: tuple[float, float]) -> Tensor:
        """Return a random view (3, H, W): a crop of ``scale`` of the area, ratio 3/4-4/3, flipped half the time."""
        top, left, height, width = crop_box(image.height, image.width, generator, scale)
        image = TF.resized_crop(image, top, left, height, width, list(self.size), self.interpolation)
        if torch.rand((), generator=generator) < 0.5:
            image = TF.hflip(image)
        tensor: Tensor = TF.normalize(TF.to_tensor(image), self.mean, self.std)
        return tensor


def crop_box(
    height: int, width: int, generator: torch.Generator, scale: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw top, left, height, width; ten tries, then the largest central crop, as torchvision does."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        draw = torch.rand(4, generator=generator).tolist()
        area = height * width * (scale[0] + draw[0] * (scale[1] - scale[0]))
        ratio = math.exp(low + draw[1] * (high - low))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(draw[2] * (height - crop_height + 1)), int(draw[3] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width
