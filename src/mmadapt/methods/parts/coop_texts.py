"""Text features of a finished CoOp run, for methods that build on them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from mmadapt.clip import ClipBackbone
from mmadapt.config.build import instantiate
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError

TextSource = Literal["template", "coop"]
_WEIGHTS, _CONFIG = "adapter.safetensors", "config.yaml"


def coop_text_features(clip: ClipBackbone, classes: ClassSet, coop_run: str | Path | None) -> Tensor:
    """Return CoOp's unit text features (C, D).

    Args:
        clip: The backbone that CoOp was trained with.
        classes: The classes that it was trained on, in the same order.
        coop_run: Folder of the run: ``…/coop/<k>shot/seed<s>`` with its weights and configuration.

    Raises:
        UserError: If there is no such run, or if it is not CoOp's.
    """
    if coop_run is None:
        raise UserError(
            "method.text_source=coop outside a run: give method.coop_run=<folder of a finished CoOp run>, or "
            "CoOp's features as text_features with text_source=template."
        )
    folder = Path(coop_run)
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"method.text_source=coop: {folder} holds no finished CoOp run. Run python -m mmadapt method=coop with the "
            "same data, clip, protocol, shots, seed and tag first."
        )
    node = OmegaConf.to_container(OmegaConf.load(folder / _CONFIG))
    assert isinstance(node, dict)
    if not str(node["method"]["_target_"]).endswith("CoOp"):
        raise UserError(f"method.coop_run={folder} is a run of {node['method']['_target_']}, not of CoOp.")
    if (known := node["clip"].get("arch")) != clip.arch:
        raise UserError(f"method.coop_run={folder} was trained with {known}, this run has {clip.arch}.")
    coop = instantiate(node["method"], "method", clip=clip, classes=classes)
    coop.load_state_dict(load_file(folder / _WEIGHTS))
    with torch.no_grad():
        features: Tensor = coop.to(clip.device).class_features()
    return features
