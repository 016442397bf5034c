"""ImageNet's classes: wnids in label order, and the names that CLIP's authors chose."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def wnids(subset: str = "imagenet") -> tuple[str, ...]:
    """Return sorted wnids: of ``imagenet`` (1000), or the 200 each of ``imagenet_a`` and ``imagenet_r``.

    They are timm's lists, read without importing timm.
    """
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("timm is not installed, which open_clip requires: pip install timm")
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    return tuple((folder / f"{subset}_synsets.txt").read_text(encoding="utf-8").split())


def class_names() -> tuple[str, ...]:
    """Return a name for each of the 1000 wnids; "missile" and "sunglasses" name two classes each."""
    from open_clip import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)
