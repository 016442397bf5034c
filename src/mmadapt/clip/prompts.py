"""Learned prompts as values, and where a prompt's tokens stand: what the towers are told, without any state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor

from mmadapt.clip import ClipBackbone
from mmadapt.errors import UserError

Position = Literal["end", "middle", "front"]


@dataclass(frozen=True)
class PromptSet:
    """The prompts of every layer of both towers; empty means the frozen CLIP itself, the teacher.

    Attributes:
        text: Layer 0: context vectors (n, d_t), or (C, n, d_t) for class-specific contexts; they stand where
            the layout has its slots and get positional embeddings. Layer i > 0: vectors (n, d_t) that replace
            positions 1..n before block i, without positional embeddings.
        vision: Layer 0: vectors (n, d_v) behind the patches, before the first layer norm. Layer i > 0:
            vectors that replace these before block i.
    """

    text: tuple[Tensor, ...] = ()
    vision: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class Packing:
    """The tokens that are left to compute per class, packed without padding, classes sorted by length.

    Attributes:
        prefix: Number P of leading positions that all classes share.
        order: Classes in packed order, (C,).
        groups: ``(count, length)`` of runs of classes with equally many own tokens, in packed order.
    """

    prefix: int
    order: Tensor
    groups: tuple[tuple[int, int], ...]

    def chunks(self, size: int | None) -> list[tuple[Tensor, tuple[tuple[int, int], ...]]]:
        """Return runs of at most ``size`` classes: the classes of each and its groups."""
        size = size or len(self.order)
        lengths = [length for count, length in self.groups for _ in range(count)]
        return [
            (classes, _runs(lengths[start : start + size]))
            for start, classes in zip(
                range(0, len(lengths), size), torch.split(self.order, size), strict=True
            )
        ]


@dataclass(frozen=True, eq=False)
class TextLayout:
    """The tokens of one prompt per class, and which of them are replaced by learned context vectors.

    Attributes:
        tokens: Token ids (C, L); below a slot stands a placeholder.
        slots: Number of the context vector at each position (C, L); -1 for an ordinary token.
        eot: Position of the token whose state becomes the feature, (C,).
    """

    tokens: Tensor
    slots: Tensor
    eot: Tensor
    _packings: dict[bool, Packing] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def length(self) -> int:
        """Number of positions up to the last EOT; nothing behind it can reach a feature."""
        return int(self.eot.max()) + 1

    def packing(self, per_class: bool) -> Packing:
        """Return what is shared and what is not.

        Args:
            per_class: Whether each class has context vectors of its own; then a slot ends the shared part.
        """
        if per_class not in self._packings:
            kind = torch.where(self.slots < 0, self.tokens, -1 - self.slots)
            differs = (kind != kind[:1]).any(dim=0)
            if per_class:
                differs |= (self.slots >= 0).any(dim=0)
            differs[int(self.eot.min())] = True  # the EOT states are what is wanted
            prefix = int(differs.int().argmax())
            lengths = self.eot + 1 - prefix
            order = lengths.argsort(stable=True)
            self._packings[per_class] = Packing(prefix, order, _runs(lengths[order].tolist()))
        return self._packings[per_class]


def _runs(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((lengths.count(length), length) for length in sorted(set(lengths)))


def text_owner(clip: ClipBackbone) -> Any:
    """Return the module that holds the parts of the text tower: open_clip has them in the model or in ``.text``."""
    return getattr(clip.model, "text", clip.model)


def find_eot(clip: ClipBackbone, tokens: Tensor) -> Tensor:
    """Return the pooled position (C,) of token ids (C, L), by the rule of the model.

    Raises:
        UserError: If the model pools text in another way than at an end-of-text token.
    """
    owner = text_owner(clip)
    pool = getattr(owner, "text_pool_type", getattr(owner, "pool_type", None))
    if pool == "argmax":
        return tokens.argmax(dim=-1)
    if pool == "eos":
        end = getattr(owner, "text_eos_id", getattr(owner, "eos_id", None))
        return tokens.eq(cast("int", end)).int().argmax(dim=-1)
    raise UserError(
        f"{clip.arch} pools its text features by {pool!r}; prompt learning needs the state at the end-of-text "
        "token. Use a CLIP model such as clip=vit_b16."
    )


def plain_layout(clip: ClipBackbone, prompts: Sequence[str]) -> TextLayout:
    """Return the layout of finished prompts, without slots."""
    tokens = clip.tokenize(prompts)
    return TextLayout(tokens, torch.full_like(tokens, -1), find_eot(clip, tokens))


def context_layout(
    clip: ClipBackbone, names: Sequence[str], n_ctx: int, words: str | None = None, position: Position = "end"
) -> TextLayout:
    """Return the layout of ``[SOS] context name . [EOT]``, with the context behind, around or before the name.

    Args:
        clip: The backbone, for its tokeniser.
        names: Class names; underscores become spaces, as in CoOp.
        n_ctx: Number of context vectors. They replace the first tokens of ``words``; what is left of the
            words stays as it is.
        words: Words before the name; None for placeholders.
        position: ``end``: the name comes at the end, behind the context. ``middle``: half of the context
            stands before the name. ``front``: the name comes first.

    Raises:
        UserError: If the position is unknown, the words are too few or a prompt is too long.
    """
    if position not in ("end", "middle", "front"):
        raise UserError(f"method.position={position!r} is unknown. Use end, middle or front.")
    leading = words if words else " ".join(["X"] * n_ctx)
    count = word_tokens(clip, words) if words else n_ctx
    if count > n_ctx and position != "end":
        raise UserError(
            f"method.position={position} needs a context of its own: n_ctx={n_ctx} leaves some of {words!r} in place. "
            f"Use n_ctx={count} or position=end."
        )
    if count < n_ctx:
        raise UserError(
            f"method.ctx_init={words!r} has {count} tokens, fewer than n_ctx={n_ctx}. "
            "Lower n_ctx, use more words, or ctx_init=null."
        )
    spaced = [name.replace("_", " ") for name in names]
    tokens = clip.tokenize([f"{leading} {name}." for name in spaced])
    slots = torch.full_like(tokens, -1)
    slots[:, 1 : 1 + n_ctx] = torch.arange(n_ctx)
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    order = torch.arange(tokens.shape[1]).repeat(len(names), 1)
    for row, name in zip(order, spaced, strict=True):
        if before < n_ctx:
            end = 1 + n_ctx + word_tokens(clip, name)
            row[1 + before : end] = torch.cat([row[1 + n_ctx : end], row[1 + before : 1 + n_ctx]]).clone()
    return TextLayout(tokens.gather(1, order), slots.gather(1, order), find_eot(clip, tokens))


def word_tokens(clip: ClipBackbone, words: str) -> int:
    """Return the number of tokens of a text, SOS and EOT not counted."""
    return len(clip.tokenizer.encode(words))


@torch.no_grad()
def word_vectors(clip: ClipBackbone, words: str, n_ctx: int) -> Tensor:
    """Return the frozen embeddings (n_ctx, d_t) of the first tokens of ``words``, in float32."""
    owner = text_owner(clip)
    tokens = clip.tokenize([words])[0, 1 : 1 + n_ctx]
    vectors: Tensor = owner.token_embedding(tokens.to(clip.device))
    return vectors.float().clone()
