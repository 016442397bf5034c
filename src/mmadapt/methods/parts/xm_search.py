"""XMAdapter's search on val: α with β, then with β_T, then with a learned γ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from mmadapt.methods.parts.cache_search import correct_for_votes
from mmadapt.methods.parts.text_cache import TextCache
from mmadapt.methods.parts.xm_evidence import Evidence

_GAMMAS = tuple(i / 10 for i in range(11))


class Choice(NamedTuple):
    """The chosen values; γ is None where the text cache's own is kept."""

    text_beta: float
    alpha: float
    beta: float
    gamma: float | None = None

    def tuned(self) -> dict[str, float]:
        """Return what was chosen by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


@torch.no_grad()
def search_by_turns(
    evidence: Evidence, labels: Tensor, cache: TextCache, alphas: Sequence[float], betas: Sequence[float]
) -> Choice:
    """Return the choice with the highest accuracy, the first of equals; a later turn must be strictly better.

    Args:
        evidence: What is known of the val images.
        labels: Their classes (V,).
        cache: What fuses the votes; its β_T is where the search starts, α and β are always chosen anew.
        alphas: Rising grid of α ≥ 0, searched in each turn.
        betas: Grid of β and β_T.
    """
    # In each turn one of them is always the same, and exponentials of all cosines cost more than the rest.
    image_votes = lru_cache(maxsize=1)(evidence.image_votes)
    text_votes = lru_cache(maxsize=1)(evidence.text_votes)
    turns: dict[str, Sequence[float]] = {"beta": betas}
    if cache.fusion != "image":
        turns["text_beta"] = betas
    if cache.fusion == "learned":
        turns["gamma"] = _GAMMAS
    correct = -1
    chosen = Choice(float(cache.beta), alphas[0], betas[0])
    for name, values in turns.items():
        before = chosen
        for value in values:
            tried = before._replace(**{name: value})
            votes = cache.fuse(image_votes(tried.beta), text_votes(tried.text_beta), tried.gamma)
            counts = correct_for_votes(evidence.zero_shot, votes, labels, alphas)
            top = int(counts.argmax())
            if int(counts[top]) > correct:
                correct = int(counts[top])
                chosen = tried._replace(alpha=alphas[top])
    return chosen
