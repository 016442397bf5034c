"""The frozen causal text tower, run block by block: over all positions, or over what classes do not share.

SOS and a class-free context stand before the class name, and a causal tower lets no state depend on what
comes later. So their states are the same for all classes, also where a layer's prompts replace them: they
are computed once, the tokens of each class attend to their keys and values, and nothing behind EOT is
computed at all. This is exact; the path over all positions is kept as its oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompts import Packing, TextLayout, text_owner
from mmadapt.clip.text_block import (
    Groups,
    finish,
    is_standard_block,
    packed_block,
    project_in,
    run_block,
    split_heads,
)
from mmadapt.errors import UserError


class TextOutput(NamedTuple):
    """What a pass through the text tower returns.

    Attributes:
        features: Raw text features (C, D), float32; (B, C, D) if contexts differ per image.
        taps: Residual stream behind the last S blocks, before the final layer norm: (S, C, T, d_t), where T
            reaches the last EOT, or the whole context on the full path. On the shared path the positions
            behind a class's EOT are zero.
    """

    features: Tensor
    taps: Tensor


class TextTower:
    """The parts of an open_clip text tower, and the two ways to run them.

    Attributes:
        width: Width d_t of the token states.
        layers: Number of blocks.
    """

    def __init__(self, clip: ClipBackbone) -> None:
        """Find the parts.

        Raises:
            UserError: If the tower is not a causal transformer of open_clip's own.
        """
        owner = text_owner(clip)
        transformer = getattr(owner, "transformer", None)
        if not hasattr(transformer, "resblocks") or getattr(owner, "cls_emb", None) is not None:
            raise UserError(
                f"Prompts cannot be learned for {clip.arch}: its text tower is a {type(owner).__name__}, not the "
                "transformer of CLIP. Use clip=vit_b16, vit_b32, vit_l14, rn50 or another CLIP of open_clip."
            )
        if getattr(owner, "attn_mask", None) is None:
            raise UserError(
                f"Prompts cannot be learned for {clip.arch}: its text tower is not causal. Use a CLIP model such "
                "as clip=vit_b16."
            )
        self._owner, self._clip = owner, clip
        self.blocks = list(cast("Any", transformer).resblocks)
        self.width: int = owner.token_embedding.weight.shape[1]
        self.layers = len(self.blocks)

    @property
    def can_share(self) -> bool:
        """Whether the blocks are the standard ones that the shared path knows how to take apart."""
        return all(is_standard_block(block) for block in self.blocks)

    def full(
        self, layout: TextLayout, prompts: Sequence[Tensor], taps: int, chunk: int | None, blockwise: bool
    ) -> TextOutput:
        """Run all positions of the context, as every released implementation does."""

        def run(classes: Tensor, *sets: Tensor) -> tuple[Tensor, Tensor]:
            tokens, slots = layout.tokens[classes], layout.slots[classes]
            context = sets[0][classes] if sets and sets[0].ndim == 3 else sets[0] if sets else None
            positions = torch.arange(tokens.shape[1])
            x = self._embed(tokens, slots, positions, context)
            mask, kept = self._owner.attn_mask[: tokens.shape[1], : tokens.shape[1]], []
            for i, block in enumerate(self.blocks):
                if 0 < i < len(sets):
                    deep = sets[i].to(x.dtype)
                    x = torch.cat([x[:, :1], deep.expand(len(x), -1, -1), x[:, 1 + len(deep) :]], dim=1)
                x = maybe_checkpoint(run_block, blockwise, block, x, mask)
                if i >= self.layers - taps:
                    kept.append(x)
            rows = torch.arange(len(x), device=x.device)
            state = x[rows, layout.eot[classes].to(x.device)]
            return self._project(state), torch.stack(kept) if kept else x.new_empty(0)

        return _run_chunks(run, torch.split(torch.arange(len(layout)), chunk or len(layout)), prompts, taps)

    def full_per_image(
        self, layout: TextLayout, contexts: Tensor, chunk: int | None, blockwise: bool
    ) -> TextOutput:
        """Run all positions of the prompts of every class for every image, contexts (B, n, d_t): B · C prompts."""
        images, classes = len(contexts), len(layout)
        tokens, slots = layout.tokens.repeat(images, 1), layout.slots.repeat(images, 1)
        each = TextLayout(tokens, slots, layout.eot.repeat(images))
        rows = contexts.repeat_interleave(classes, dim=0)
        out = self.full(each, (rows,), 0, chunk and chunk * images, blockwise)
        return TextOutput(out.features.unflatten(0, (images, classes)), out.taps)

    def shared(
        self,
        layout: TextLayout,
        prompts: Sequence[Tensor],
        taps: int,
        chunk: int | None,
        blockwise: bool,
        per_image: bool = False,
    ) -> TextOutput:
        """Run the shared positions once, then of each class only its own tokens up to EOT.

        With ``per_image`` the one prompt (B, n, d_t) holds a context for each of B images, not for each
        class: the shared positions run once per image, and taps are not given.
        """
        packing = layout.packing(bool(prompts) and prompts[0].ndim == 3 and not per_image)
        for deep in prompts[1:]:
            if 1 + len(deep) > packing.prefix:
                raise UserError(
                    f"Prompts of deeper layers replace positions 1 to {len(deep)}, but only {packing.prefix} leading "
                    "positions are common to all classes. Use a shared context before the name."
                )
        keys_values, prefix_taps = self._prefix(layout, prompts, packing, taps, per_image)
        states, own_taps, order = [], [], []
        for classes, groups in packing.chunks(chunk):

            def run(x: Tensor, *kv: Tensor, groups: Groups = groups) -> tuple[Tensor, Tensor]:
                return self._suffix(x, kv, groups, taps, blockwise)

            x = self._pack(layout, () if per_image else prompts, packing.prefix, classes)
            if per_image:
                x = x.expand(len(prompts[0]), -1, -1)
            state, tapped = maybe_checkpoint(run, chunk is not None, x, *keys_values)
            states.append(state)
            own_taps.append(_unpack(tapped, groups, layout.length - packing.prefix))
            order.append(classes)
        back = torch.cat(order).argsort().to(states[0].device)
        features = self._project(torch.cat(states, dim=-2))[..., back, :]
        if not taps:
            return TextOutput(features, features.new_empty(0))
        shared = prefix_taps[:, None].expand(-1, len(layout), -1, -1)
        return TextOutput(features, torch.cat([shared, torch.cat(own_taps, dim=1)[:, back]], dim=2))

    def _embed(self, tokens: Tensor, slots: Tensor, positions: Tensor, context: Tensor | None) -> Tensor:
        """Return embeddings (..., d_t) of tokens (..., ), context (n, d_t) or, per leading row, (C, n, d_t)."""
        owner, device = self._owner, self._clip.device
        dtype = self.blocks[0].mlp.c_fc.weight.dtype
        x: Tensor = owner.token_embedding(tokens.to(device)).to(dtype)
        if context is not None and bool((slots >= 0).any()):
            at = slots.to(device)
            index = at.clamp(min=0)
            context = context.to(dtype)
            if context.ndim == 2:
                learned = context[index]
            else:
                learned = context[torch.arange(len(context), device=device)[:, None], index]
            x = torch.where((at >= 0)[..., None], learned, x)
        embedded: Tensor = x + owner.positional_embedding[positions.to(device)].to(dtype)
        return embedded

    def _project(self, state: Tensor) -> Tensor:
        """Return features (…, D) of the residual stream at EOT, (…, d_t)."""
        x = self._owner.ln_final(state)
        projection = self._owner.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Module) else x @ projection
        return cast("Tensor", x).float()

    def _prefix(
        self, layout: TextLayout, prompts: Sequence[Tensor], packing: Packing, taps: int, per_image: bool
    ) -> tuple[list[Tensor], Tensor]:
        """Return keys and values (H, P, d_h) of the shared positions for each block, and their taps (S, P, d_t).

        With ``per_image`` they are (B, H, P, d_h).
        """
        length = packing.prefix
        context = prompts[0] if prompts and (per_image or prompts[0].ndim == 2) else None
        tokens, slots = layout.tokens[0, :length], layout.slots[0, :length]
        if per_image:
            tokens, slots = (part.expand(len(prompts[0]), -1) for part in (tokens, slots))
        x = self._embed(tokens, slots, torch.arange(length), context)
        keys_values: list[Tensor] = []
        kept = []
        for i, block in enumerate(self.blocks):
            if 0 < i < len(prompts):
                deep = prompts[i].to(x.dtype)
                x = torch.cat([x[:1], deep, x[1 + len(deep) :]])
            query, key, value = (split_heads(part, block) for part in project_in(block, x))
            keys_values += [key, value]
            if i < self.layers - 1 or taps:
                attended = F.scaled_dot_product_attention(
                    query[None], key[None], value[None], is_causal=True
                )[0]
                x = finish(block, x, attended.transpose(-3, -2).flatten(-2))
            if i >= self.layers - taps:
                kept.append(x)
        return keys_values, torch.stack(kept) if kept else x.new_empty(0)

    def _pack(self, layout: TextLayout, prompts: Sequence[Tensor], prefix: int, classes: Tensor) -> Tensor:
        """Return the embedded own tokens (N, d_t) of these classes, one class behind the other."""
        lengths = layout.eot[classes] + 1 - prefix
        rows = classes.repeat_interleave(lengths)
        starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        positions = torch.arange(len(rows)) - starts + prefix
        tokens, slots = layout.tokens[rows, positions], layout.slots[rows, positions]
        if not prompts or prompts[0].ndim == 2:
            return self._embed(tokens, slots, positions, prompts[0] if prompts else None)
        flat = torch.where(
            slots >= 0, slots + rows * prompts[0].shape[1], -1
        )  # contexts of all classes in a row
        return self._embed(tokens, flat, positions, prompts[0].flatten(0, 1))

    def _suffix(
        self, x: Tensor, keys_values: Sequence[Tensor], groups: Groups, taps: int, blockwise: bool
    ) -> tuple[Tensor, Tensor]:
        """Run packed tokens (…, N, d_t); return the states at EOT (…, C, d_t) and the taps (S, N, d_t)."""
        ends = _ends(groups).to(x.device)
        kept = []
        for i, block in enumerate(self.blocks):
            last = i == self.layers - 1 and not taps  # then only EOT is asked for
            x = maybe_checkpoint(
                packed_block,
                blockwise,
                block,
                x,
                keys_values[2 * i],
                keys_values[2 * i + 1],
                groups,
                ends if last else None,
            )
            if i >= self.layers - taps:
                kept.append(x)
        return (x[ends], torch.stack(kept)) if taps else (x, x.new_empty(0))


def _ends(groups: Groups) -> Tensor:
    return torch.tensor([length for count, length in groups for _ in range(count)]).cumsum(0) - 1


def _unpack(packed: Tensor, groups: Groups, length: int) -> Tensor:
    """Return packed taps (S, N, d) as (S, C, length, d), zero behind each class's EOT."""
    if not len(packed):
        return packed
    parts = torch.split(packed, [count * own for count, own in groups], dim=1)
    return torch.cat(
        [
            F.pad(part.unflatten(1, (count, own)), (0, 0, 0, length - own))
            for part, (count, own) in zip(parts, groups, strict=True)
        ],
        dim=1,
    )


def maybe_checkpoint(function: Callable[..., Any], wanted: bool, *arguments: Any) -> Any:
    """Call a function; if wanted, keep none of its activations but compute them again in the backward pass."""
    if wanted and torch.is_grad_enabled():
        return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return function(*arguments)


def _run_chunks(
    run: Callable[..., tuple[Tensor, Tensor]], chunks: Sequence[Tensor], prompts: Sequence[Tensor], taps: int
) -> TextOutput:
    parts = [maybe_checkpoint(run, len(chunks) > 1, classes, *prompts) for classes in chunks]
    features = torch.cat([features for features, _ in parts])
    return TextOutput(
        features, torch.cat([tapped for _, tapped in parts], dim=1) if taps else features.new_empty(0)
    )
