"""XMAdapter's search on val: α and β, then α and β_T, then α and a learned γ."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mmadapt.methods.parts.cache_search import correct_for_votes

GAMMAS = tuple(i / 10 for i in range(11))
Votes = Callable[[float], Tensor]


def search_fused(
    zero_shot: Tensor,
    labels: Tensor,
    alphas: Sequence[float],
    betas: Sequence[float],
    *,
    image_votes: Votes,
    text_votes: Votes,
    fuse: Callable[[Tensor, Tensor, float | None], Tensor],
    text_beta: float,
    search_text: bool,
    search_gamma: bool,
) -> dict[str, float]:
    """Return the chosen ``alpha``, ``beta``, ``text_beta`` and, if it was better than the learned one, ``gamma``.

    A later step must be strictly better than all before; of equals the first counts.

    Args:
        zero_shot: Scaled zero-shot logits (V, C).
        labels: Class of each val image (V,).
        alphas: Rising grid of α.
        betas: Grid of β and β_T.
        image_votes: Votes of the image cache (V, C) at a β.
        text_votes: Votes of the text cache (V, C) at a β_T.
        fuse: Fuses both, at a γ or, for None, at the adapter's own.
        text_beta: β_T before the search.
        search_text: Whether the text cache has a vote.
        search_gamma: Whether γ is searched, too.
    """
    best, chosen = -1, {"text_beta": text_beta}

    def better(votes: Tensor, **values: float) -> None:
        nonlocal best
        correct = correct_for_votes(zero_shot, votes, labels, alphas)
        top = int(correct.argmax())
        if int(correct[top]) > best:
            best = int(correct[top])
            chosen.update(alpha=alphas[top], **values)

    text = text_votes(text_beta)
    for beta in betas:
        better(fuse(image_votes(beta), text, None), beta=beta)
    image = image_votes(chosen["beta"])
    for beta in betas if search_text else ():
        better(fuse(image, text_votes(beta), None), text_beta=beta)
    text = text_votes(chosen["text_beta"])
    for gamma in GAMMAS if search_gamma else ():
        better(fuse(image, text, gamma), gamma=gamma)
    return chosen
