"""The two frozen towers with learned prompts inside; without prompts they are the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompts import PromptSet, TextLayout
from mmadapt.clip.text_block import run_block
from mmadapt.clip.text_tower import TextOutput, TextTower, maybe_checkpoint
from mmadapt.errors import UserError

TextPath = Literal["shared", "full"]
_TEACHER = PromptSet()


class PromptedTowers:
    """Runs the blocks of a frozen CLIP one by one, with prompts passed as values.

    It holds no weights and no state of its own: called without prompts it is the frozen CLIP, so a teacher
    needs no second copy. Where prompts stand follows MaPLe (arXiv 2210.03117, §3.2): text prompts replace
    positions 1..n; image prompts stand behind the patches; both are replaced before each block up to the
    prompt depth and flow on afterwards.

    Attributes:
        clip: The frozen backbone.
        text: Its text tower.
    """

    def __init__(
        self,
        clip: ClipBackbone,
        *,
        text_path: TextPath = "shared",
        class_chunk: int | None = None,
        checkpoint: bool = False,
    ) -> None:
        """Bind a backbone.

        Args:
            clip: The frozen backbone.
            text_path: ``shared`` computes the positions that all classes share once and stops at EOT: the
                same numbers for a fraction of the work. ``full`` runs all positions of the context.
            class_chunk: Classes per pass of the text tower, recomputed in the backward pass; None is all of
                them. Trades a third more time for memory that does not grow with the classes.
            checkpoint: Recompute every block in the backward pass, in both towers.

        Raises:
            UserError: If the text tower is no causal transformer or a value is out of range.
        """
        if text_path not in ("shared", "full"):
            raise UserError(f"method.text_path={text_path!r} is unknown. Use shared or full.")
        if class_chunk is not None and class_chunk < 1:
            raise UserError(
                f"method.class_chunk={class_chunk} must be 1 or more, or null for all classes at once."
            )
        self.clip, self.text = clip, TextTower(clip)
        self.text_path: TextPath = text_path if self.text.can_share else "full"
        self.class_chunk, self.checkpoint = class_chunk, checkpoint

    @cached_property
    def vision_width(self) -> int:
        """Width d_v of the image tower's tokens.

        Raises:
            UserError: If the image tower takes no prompts.
        """
        self.check_vision()
        visual: Any = self.clip.visual
        return int(visual.class_embedding.numel())

    @property
    def vision_layers(self) -> int:
        """Number of blocks of the image tower."""
        self.check_vision()
        visual: Any = self.clip.visual
        return len(visual.transformer.resblocks)

    def check_vision(self) -> None:
        """Refuse an image tower that takes no prompts.

        Raises:
            UserError: If it is not open_clip's vision transformer with a class token.
        """
        if not self._is_vit:
            raise UserError(
                f"{self.clip.arch} has no image tower for prompts ({type(self.clip.visual).__name__}); they need a "
                "vision transformer with a class token. Use clip=vit_b16, vit_b32 or vit_l14, or a method that "
                "changes the text tower only: method=coop."
            )

    def check_depth(self, depth: int) -> None:
        """Refuse more layers of prompts than the towers have.

        Raises:
            UserError: If depth is not in 1..layers of the smaller tower.
        """
        most = min(self.text.layers, self.vision_layers)
        if not 1 <= depth <= most:
            raise UserError(
                f"method.depth={depth}: prompts of {self.clip.arch} can be 1 to {most} layers deep. "
                f"Use method.depth={min(max(depth, 1), most)}."
            )

    def encode_text(
        self,
        layout: TextLayout,
        prompts: PromptSet = _TEACHER,
        *,
        taps: int = 0,
        path: TextPath | None = None,
    ) -> TextOutput:
        """Return features of one prompt per class.

        Args:
            layout: Tokens and slots.
            prompts: Learned prompts; without any this is the frozen tower.
            taps: Number S of last blocks whose residual stream is returned.
            path: Overrides the path given to the constructor.
        """
        path = path or self.text_path
        run = self.text.shared if path == "shared" and self.text.can_share else self.text.full
        return run(layout, prompts.text, taps, self.class_chunk, self.checkpoint)

    def encode_text_per_image(
        self, layout: TextLayout, contexts: Tensor, *, path: TextPath | None = None
    ) -> Tensor:
        """Return raw features (B, C, D) of C prompts for each of B images (CoCoOp), float32.

        On the shared path SOS and context run once per image and the classes' own tokens attend to their
        image's keys and values. ``full`` runs B · C whole prompts, as released.

        Args:
            layout: Tokens and slots; the context must stand before the names.
            contexts: Context vectors (B, n, d_t), one context for each image and all classes.
            path: Overrides the path given to the constructor.

        Raises:
            UserError: If a slot lies behind what all classes share.
        """
        if bool((layout.slots[:, layout.packing(False).prefix :] >= 0).any()):
            raise UserError(
                "A context that differs per image must stand before the class names. Use method.position=end."
            )
        path = path or self.text_path
        if path == "full" or not self.text.can_share:
            return self.text.full_per_image(layout, contexts, self.class_chunk, self.checkpoint).features
        return self.text.shared(
            layout, (contexts,), 0, self.class_chunk, self.checkpoint, per_image=True
        ).features

    def encode_image(self, images: Tensor, prompts: PromptSet = _TEACHER) -> Tensor:
        """Return raw image features (B, D) in float32 of transformed images (B, 3, H, W).

        Raises:
            UserError: If prompts are given for a tower that takes none.
        """
        if not self._is_vit and not prompts.vision:
            return self.clip.encode_image(images)
        self.check_vision()
        visual: Any = self.clip.visual
        x = visual.conv1(images.to(self.clip.device, self.clip.dtype)).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        x = x + visual.positional_embedding.to(x.dtype)
        count = x.shape[1]
        x = visual.ln_pre(_put(x, prompts.vision[:1], count))
        for i, block in enumerate(visual.transformer.resblocks):
            x = _put(x, prompts.vision[i : i + 1] if i else (), count)
            x = maybe_checkpoint(run_block, self.checkpoint, block, x)
        features = _pool(visual, x[:, :count])
        return (features if visual.proj is None else features @ visual.proj).float()

    @cached_property
    def _is_vit(self) -> bool:
        visual: Any = self.clip.visual
        return (
            hasattr(visual, "class_embedding")
            and hasattr(getattr(visual, "transformer", None), "resblocks")
            and getattr(visual, "attn_pool", None) is None
            and visual.pool_type in ("tok", "avg")
        )


def _put(x: Tensor, prompts: Sequence[Tensor], count: int) -> Tensor:
    """Return the ``count`` tokens of each image with these prompts behind them; unchanged if there are none."""
    for prompt in prompts:
        x = torch.cat([x[:, :count], prompt.to(x.dtype).expand(len(x), -1, -1)], dim=1)
    return x


def _pool(visual: Any, x: Tensor) -> Tensor:
    """Pool image tokens (B, T, d_v) without prompts as the model does."""

    def pooled(tokens: Tensor) -> Tensor:
        return tokens[:, 0] if visual.pool_type == "tok" else tokens[:, 1:].mean(dim=1)

    result: Tensor = visual.ln_post(pooled(x)) if visual.final_ln_after_pool else pooled(visual.ln_post(x))
    return result
