"""Prompts in both towers as the papers write them, layer by layer."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from mmadapt.data.base import ClassSet

CLASSES = ClassSet(("cat", "golden_retriever", "forest", "tench"), ("a photo of a {}.",))


def naive_logits(clip, names, text, vision, images):
    """Prompted towers as in the paper, over all positions: splice, replace before each block, pool."""
    owner, visual, n = clip.model, clip.model.visual, len(text[0])
    tokens = clip.tokenize([f"a photo of a {name.replace('_', ' ')}." for name in names])
    x = owner.token_embedding(tokens)
    x = torch.cat([x[:, :1], text[0].expand(len(x), -1, -1), x[:, 1 + n :]], 1) + owner.positional_embedding
    for i, block in enumerate(owner.transformer.resblocks):
        if 0 < i < len(text):
            x = torch.cat([x[:, :1], text[i].expand(len(x), -1, -1), x[:, 1 + n :]], 1)
        x = block(x, attn_mask=owner.attn_mask)
    states = x
    x = owner.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)] @ owner.text_projection
    y = visual.conv1(images).flatten(2).mT
    y = torch.cat([visual.class_embedding.expand(len(y), 1, -1), y], 1) + visual.positional_embedding
    y = visual.ln_pre(torch.cat([y, vision[0].expand(len(y), -1, -1)], 1))
    for i, block in enumerate(visual.transformer.resblocks):
        if 0 < i < len(vision):
            y = torch.cat([y[:, :-n], vision[i].expand(len(y), -1, -1)], 1)
        y = block(y)
    y = visual.ln_post(y[:, 0]) @ visual.proj
    return clip.logit_scale.exp() * F.normalize(y, dim=-1) @ F.normalize(x, dim=-1).T, states
