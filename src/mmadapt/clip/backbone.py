"""The frozen CLIP model that every method adapts. The only module that imports open_clip."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip.transforms import ImageTransform
from mmadapt.errors import UserError, did_you_mean, one_of

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EMBEDDED = "embedded"
"""``pretrained=embedded``: the weights that ship inside this package."""

_ASSETS = resources.files("mmadapt") / "assets"


class ClipBackbone(nn.Module):
    """An open_clip model, frozen, and in evaluation mode whatever Lightning calls.

    Attributes:
        model: The open_clip model itself, for methods that run its blocks one by one.
        transform: Test-time transform and augmented views that fit the image tower.
        dim: Width D of the joint embedding space.
        context_length: Number of text positions, SOS and EOT included.
    """

    model: Any
    context_length: int

    def __init__(
        self,
        arch: str,
        pretrained: str | None,
        *,
        precision: Precision = "fp32",
        name: str = "",
        seed: int = 0,
    ) -> None:
        """Build the model and load its weights.

        Args:
            arch: Architecture name of open_clip, for example ``ViT-B-16-quickgelu``.
            pretrained: Weight tag of open_clip, path of a local checkpoint, ``embedded`` for the weights in
                this package, or None for random weights.
            precision: Type of the towers' weights and activations. Features come out as float32 always.
            name: Short name used in folders and tables; the architecture's name if empty.
            seed: Seed of random weights; the global random state is left as it was.

        Raises:
            UserError: If architecture, tag or path is unknown, or if the weights were trained with another
                activation than the architecture has (QuickGELU), which would silently lower the accuracy.
        """
        super().__init__()
        open_clip.add_model_config(Path(str(_ASSETS)))
        one_of("clip.precision", precision, DTYPES)
        _check(arch, pretrained)
        self.arch, self.pretrained, self.precision, self.name = arch, pretrained, precision, name or arch
        self.model = _create(arch, pretrained, precision, seed)
        self.model.requires_grad_(False)
        self.tokenizer = open_clip.get_tokenizer(arch)
        preprocess = open_clip.get_model_preprocess_cfg(self.model)
        test = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)
        self.transform = ImageTransform(test, preprocess)
        self.context_length = self.model.context_length
        with torch.no_grad():
            self.dim: int = self.encode_text(["a"]).shape[-1]
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: batch-norm statistics of RN50 must not follow the few shots."""
        del mode
        return super().train(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """Type that the towers compute in."""
        return DTYPES[self.precision]

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        tower: nn.Module = self.model.visual
        return tower

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the inverse temperature, a scalar, as CLIP stores it."""
        scale: Tensor = self.model.logit_scale
        return scale

    def encode_image(self, images: Tensor, *, normalize: bool = False) -> Tensor:
        """Return image features (B, D) in float32 of transformed images (B, 3, H, W)."""
        features: Tensor = self.model.encode_image(images.to(self.device, self.dtype)).float()
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, prompts: Sequence[str] | Tensor, *, normalize: bool = False) -> Tensor:
        """Return text features (N, D) in float32 of prompts or of their tokens (N, L)."""
        tokens = prompts if isinstance(prompts, Tensor) else self.tokenize(prompts)
        features: Tensor = self.model.encode_text(tokens.to(self.device)).float()
        return F.normalize(features, dim=-1) if normalize else features

    def tokenize(self, prompts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Return token ids (N, context_length).

        Raises:
            UserError: If a prompt is longer than the context and ``truncate`` is False. Cutting it in silence
                would drop the class name.
        """
        if not truncate and hasattr(self.tokenizer, "encode"):
            for prompt in prompts:
                length = len(self.tokenizer.encode(prompt)) + 2
                if length > self.context_length:
                    raise UserError(
                        f"The prompt {prompt!r} has {length} tokens, {self.arch} reads {self.context_length}. "
                        "Shorten the class name or the template."
                    )
        tokens: Tensor = self.tokenizer(list(prompts))
        return tokens

    @cached_property
    def weights_hash(self) -> str:
        """Hash over every weight and buffer, part of the identity of stored features."""
        digest = hashlib.blake2b(digest_size=16)
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _check(arch: str, pretrained: str | None) -> None:
    """Refuse what open_clip would refuse late, or accept although it lowers the accuracy."""
    config: dict[str, Any] | None = open_clip.get_model_config(arch)
    if config is None:
        raise UserError(
            f"clip.arch={arch!r} is not an architecture of open_clip{did_you_mean(arch, open_clip.list_models())}. "
            "List them: python -c 'import open_clip; print(open_clip.list_models())'."
        )
    if pretrained is None or Path(pretrained).is_file():
        return
    if pretrained == EMBEDDED:
        if not (_ASSETS / f"{arch}.safetensors").is_file():
            raise UserError(
                f"clip.pretrained=embedded: this package ships no weights for {arch}. Use clip=tiny."
            )
        return
    tags = open_clip.list_pretrained_tags_by_model(arch)
    tag = open_clip.get_pretrained_cfg(arch, pretrained)
    if not tag:
        raise UserError(
            f"clip.pretrained={pretrained!r} is neither a file nor a tag of {arch}{did_you_mean(pretrained, tags)}. "
            f"Tags: {', '.join(tags) or 'none'}; null gives random weights."
        )
    if bool(tag.get("quick_gelu", False)) != bool(config.get("quick_gelu", False)):
        wanted = arch.removesuffix("-quickgelu") + ("-quickgelu" if tag.get("quick_gelu") else "")
        raise UserError(
            f"QuickGELU mismatch: the weights {pretrained!r} were trained with another activation than {arch} has; "
            f"accuracy would drop silently. Use clip.arch={wanted}."
        )


def _create(arch: str, pretrained: str | None, precision: str, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]), _quiet_logging():
        torch.manual_seed(seed)
        tag = None if pretrained == EMBEDDED else pretrained
        try:
            model: nn.Module = open_clip.create_model(arch, pretrained=tag, precision=precision)
        except Exception as error:  # unpickling, shapes, network: open_clip wraps none of them
            raise UserError(f"The weights {pretrained!r} of {arch} could not be loaded: {error}") from error
    if pretrained == EMBEDDED:
        from mmadapt.clip.tiny import load_tiny_state

        model.load_state_dict(load_tiny_state(Path(str(_ASSETS / f"{arch}.safetensors"))))
    return model


@contextmanager
def _quiet_logging() -> Iterator[None]:
    """open_clip logs each step of a build to the root logger."""
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(before)
