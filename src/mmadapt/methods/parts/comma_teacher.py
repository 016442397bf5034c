"""COMMA's teacher: the tokens of the frozen CLIP, which learned tokens are kept close to (arXiv 2401.00268, §3.3)."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompted_towers import PromptedTowers, TextPath
from mmadapt.clip.prompts import TextLayout, plain_layout
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError

log = logging.getLogger(__name__)

KdPositions = Literal["valid", "all", "eos"]


class Teacher(nn.Module):
    """Token states of hand-written prompts in the frozen CLIP, and which learned tokens they are compared with.

    Attributes:
        states: Unit token states behind the last S blocks at the M compared positions, (S, M, d_t).
        rows: Class of each compared position, (M,).
        columns: Where it is in the learned prompt, (M,).
        layers: S.
        path: The path of the text tower that knows the compared positions; None leaves it to the recipe.
    """

    states: Tensor
    rows: Tensor
    columns: Tensor

    @torch.no_grad()
    def __init__(
        self,
        towers: PromptedTowers,
        learned: TextLayout,
        plain: TextLayout,
        positions: KdPositions,
        layers: int,
    ) -> None:
        """Ask the frozen CLIP once.

        Args:
            towers: Its towers.
            learned: Where the tokens of the learned prompts stand.
            plain: Where those of the hand-written prompts stand, see `hand_written`.
            positions: Which of them are compared, see `COMMA`.
            layers: Number S of last text blocks.
        """
        super().__init__()
        self.layers = layers
        self.path: TextPath | None = "full" if positions == "all" else None
        if positions == "all":
            log.warning(
                "kd_positions=all compares padding behind EOT too, so training runs the text tower over all "
                "positions; valid and eos do not need to."
            )
        taps = towers.encode_text(plain, taps=layers, path=self.path).taps
        rows = torch.arange(len(plain))
        columns, own = learned.eot, plain.eot
        if positions != "eos":
            shared = torch.minimum(columns, own) + 1
            counts = shared if positions == "valid" else torch.full_like(shared, taps.shape[2])
            rows = rows.repeat_interleave(counts)
            columns = own = torch.cat([torch.arange(int(count)) for count in counts])
        states = F.normalize(taps[:, rows.to(taps.device), own.to(taps.device)].float(), dim=-1)
        for name, value in (("states", states), ("rows", rows), ("columns", columns)):
            self.register_buffer(name, value.to(taps.device), persistent=False)

    def distance(self, taps: Tensor) -> Tensor:
        """Return the mean of 1 − cosine between learned tokens (S, C, L, d_t) and the teacher's, in [0, 2]."""
        states = F.normalize(taps[:, self.rows, self.columns].float(), dim=-1)
        return 1 - (states * self.states).sum(dim=-1).mean()


def hand_written(clip: ClipBackbone, names: tuple[str, ...], template: str) -> TextLayout:
    """Return the layout of hand-written prompts.

    Raises:
        UserError: If the template has no ``{}`` for the name.
    """
    if "{}" not in template:
        raise UserError(f"method.kd_template={template!r} must hold {{}} where the class name goes.")
    return plain_layout(clip, [prompt for (prompt,) in ClassSet(names, (template,)).prompts()])
