"""A LightningModule beside a frozen CLIP, and what is computed from that CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from lightning import LightningModule, Trainer
from torch import Tensor

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureSet, average_prompts


class BesideFrozenClip(LightningModule):
    """Leaves the shared ``clip`` out of its weights (600 MB for ViT-B/16), and where it is after a fit."""

    strict_loading = False

    def cpu(self) -> Self:
        """Stay on the device: Lightning would move the module, and the shared CLIP, after each fit and test."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the module's own tensors."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "") + "clip."
        return {key: value for key, value in state.items() if not key.startswith(prefix)}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the module's own tensors.

        Raises:
            UserError: If ``strict`` and a tensor of the module is missing or unknown.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith("clip.")]
        if strict and (missing or result.unexpected_keys):
            raise UserError(
                f"These weights are not of {type(self).__name__} with this configuration: "
                f"missing {missing}, unknown {result.unexpected_keys}."
            )
        return result


def renamed(state_dict: dict[str, Tensor], prefix: str, earlier: Mapping[str, str]) -> None:
    """Give the weights of stored adapters their present names, in place; ``earlier`` maps beginnings of names."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        for old, new in earlier.items():
            if key.removeprefix(prefix).startswith(old):
                state_dict[prefix + new + key.removeprefix(prefix + old)] = state_dict.pop(key)


@torch.no_grad()
def class_text_features(clip: ClipBackbone, classes: ClassSet) -> Tensor:
    """Return one unit text feature per class, (C, D): normalise each prompt's, average, normalise."""
    prompts = classes.prompts()
    each = clip.encode_text([prompt for row in prompts for prompt in row], normalize=True)
    return average_prompts(each, prompts)


def scale_of(clip: ClipBackbone, logit_scale: float | None) -> float:
    """Return the factor of the cosine: a paper's constant if given, else the model's own exp(logit_scale)."""
    return float(clip.logit_scale.exp()) if logit_scale is None else float(logit_scale)


def shots_of(trainer: Trainer, clip: ClipBackbone) -> tuple[FeatureSet, FeatureSet]:
    """Return the features of the shots and of val that a trainer is about to fit on.

    A data module of features has them as ``support`` and ``val_features``; of any other one, and of plain loaders,
    every batch of images or features is read once.
    """
    data: Any = getattr(trainer, "datamodule", None)
    if hasattr(data, "support"):
        return data.support, data.val_features
    sources = trainer.fit_loop._data_source, trainer.fit_loop.epoch_loop.val_loop._data_source
    support, val = (_features(source.dataloader() if source.is_defined() else (), clip) for source in sources)
    return support, val


@torch.no_grad()
def _features(batches: Iterable[tuple[Tensor, Tensor]], clip: ClipBackbone) -> FeatureSet:
    features, labels = [torch.empty(0, clip.dim)], [torch.empty(0, dtype=torch.long)]
    for inputs, own in batches:
        inputs = inputs.to(clip.device)
        features.append(clip.encode_image(inputs) if inputs.ndim == 4 else inputs)
        labels.append(own)
    return FeatureSet(
        torch.cat([part.to(clip.device) for part in features])[None],
        torch.cat([part.to(clip.device) for part in labels]),
    )
