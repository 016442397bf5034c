"""The network that is pre-trained: open_clip's CLIP, a compact vocabulary and two auxiliary heads."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, SimpleTokenizer
from open_clip.model import CLIP
from tiny_captions import caption_words
from tiny_images import SPLITS, Chunk
from torch import Tensor, nn

from mmadapt.clip.tiny import tiny_config

if TYPE_CHECKING:
    from collections.abc import Sequence

# Normalisation during pre-training, for RGB in [0, 1].
MEAN, STD = (0.5, 0.5, 0.5), (0.27, 0.27, 0.27)


class Vocabulary:
    """The BPE rows that captions use, numbered compactly; the end-of-text row stays the largest."""

    def __init__(self) -> None:
        tokenizer = SimpleTokenizer()
        self._encode = lru_cache(maxsize=None)(tokenizer.encode)
        self.rows = sorted(
            {0, tokenizer.sot_token_id, tokenizer.eot_token_id}.union(*map(self._encode, caption_words()))
        )
        self._compact = {row: index for index, row in enumerate(self.rows)}
        self._ends = self._compact[tokenizer.sot_token_id], self._compact[tokenizer.eot_token_id]

    def encode(self, text: str) -> list[int]:
        """Compact indices of a text, without its ends."""
        return [self._compact[row] for word in text.replace(".", " .").split() for row in self._encode(word)]

    def __call__(self, texts: list[str]) -> Tensor:
        """Token indices with both ends, padded to the longest text, int64 (n, L)."""
        lists = [self.encode(text) for text in texts]
        width = max(map(len, lists)) + 2
        start, end = self._ends
        return torch.tensor([[start, *tokens, end] + [0] * (width - 2 - len(tokens)) for tokens in lists])


def normalise(images: Tensor, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> Tensor:
    """From uint8 to a network's input, float32."""
    return (images.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def with_stock_normalisation(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function for inputs that are normalised as open_clip does by default.

    The change of scale goes into the patch filters.  The change of mean adds the same vector to every patch,
    which the position embedding can hold, so nothing is lost.
    """
    state, filters, positions = dict(state), "visual.conv1.weight", "visual.positional_embedding"
    old_mean, old_std = torch.tensor(MEAN), torch.tensor(STD)
    new_mean, new_std = torch.tensor(OPENAI_DATASET_MEAN), torch.tensor(OPENAI_DATASET_STD)
    shift = state[filters].sum((2, 3)) @ ((new_mean - old_mean) / old_std)
    state[positions] = torch.cat([state[positions][:1], state[positions][1:] + shift])
    state[filters] = state[filters] * (new_std / old_std)[:, None, None]
    return state


def cosine_basis(patch: int, channels: int) -> Tensor:
    """Patch filters that start as a discrete cosine transform of brightness and two colour contrasts."""
    k = torch.arange(patch)
    wave = torch.cos(math.pi * (k[None] + 0.5) * k[:, None] / patch)
    wave = wave / wave.norm(dim=1, keepdim=True)
    order = sorted((u + v, u, v) for u in range(patch) for v in range(patch))
    opponents = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]]), dim=1)
    plan = [(0, entry) for entry in order[: channels // 2]]
    plan += [(axis, entry) for entry in order[: channels // 4] for axis in (1, 2)]
    filters = [
        min(1.0, 0.15 * (1 + total)) * opponents[axis][:, None, None] * wave[u][:, None] * wave[v][None]
        for axis, (total, u, v) in plan
    ]
    return torch.stack(filters)


def sincos_positions(side: int, width: int, amplitude: float) -> Tensor:
    """Two-dimensional sine and cosine position codes, (side², width)."""
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency[None]
    line = torch.cat([angle.sin(), angle.cos()], 1)
    rows, columns = line[:, None].expand(-1, side, -1), line[None].expand(side, -1, -1)
    return amplitude * torch.cat([rows, columns], -1).flatten(0, 1)


class Student(nn.Module):
    """The CLIP with a compact vocabulary and two auxiliary heads that are thrown away after training."""

    def __init__(self, vocabulary_size: int) -> None:
        super().__init__()
        config = tiny_config()
        vision, text = config["vision_cfg"], {**config["text_cfg"], "vocab_size": vocabulary_size}
        self.clip = CLIP(config["embed_dim"], vision, text)
        self.pooled_head = nn.Linear(config["embed_dim"], sum(SPLITS))
        self.patch_head = nn.Linear(vision["width"], sum(SPLITS) + 1)
        self._tokens: Tensor | None = None
        visual = self.clip.visual
        visual.transformer.resblocks[-2].register_forward_hook(self._keep_tokens)
        with torch.no_grad():
            visual.conv1.weight.copy_(cosine_basis(vision["patch_size"], vision["width"]))
            side = vision["image_size"] // vision["patch_size"]
            visual.positional_embedding[1:] = sincos_positions(side, vision["width"], 0.25)

    def _keep_tokens(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self._tokens = output[:, 1:]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Unit text features; attention is causal, so leaving out the last columns changes nothing."""
        clip, length = self.clip, tokens.shape[1]
        x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
        return F.normalize((x[torch.arange(len(x)), tokens.argmax(1)] @ clip.text_projection).float(), dim=1)

    def losses(self, batch: Chunk, tokens: Tensor, mentioned: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Contrastive loss, attribute loss of the pooled feature and attribute loss of the patches."""
        with torch.autocast("cpu", torch.bfloat16):
            pooled = self.clip.encode_image(normalise(batch.images)).float()
            texts = self.encode_text(tokens)
        if self._tokens is None:
            raise RuntimeError("the vision tower did not run through its transformer blocks")
        logits = self.clip.logit_scale.exp() * F.normalize(pooled, dim=1) @ texts.T
        # A caption that is also true of another image is no negative of it.
        also_true = ((mentioned[None] == -1) | (mentioned[None] == batch.attributes[:, None])).all(-1)
        logits = logits.masked_fill(also_true.fill_diagonal_(False), -1e4)
        target = torch.arange(len(logits))
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

        patches = F.layer_norm(self._tokens.float(), self._tokens.shape[-1:])
        *dense, cover = self.patch_head(patches).split([*SPLITS, 1], dim=-1)
        coarse = self.pooled_head(pooled).split(SPLITS, dim=-1)
        whole = torch.stack([F.cross_entropy(c, batch.attributes[:, i]) for i, c in enumerate(coarse)]).mean()
        weight = batch.coverage / batch.coverage.sum()
        local = F.binary_cross_entropy_with_logits(cover[..., 0], batch.coverage)
        for i, scores in enumerate(dense):
            labels = batch.attributes[:, i, None].expand(-1, scores.shape[1])
            local = (
                local + (weight * F.cross_entropy(scores.transpose(1, 2), labels, reduction="none")).sum() / 3
            )
        return contrastive, whole, local
