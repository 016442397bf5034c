"""Multi-Modal Adapter: one training step against plain attention over C + 1 tokens for each image.

Run ``OMP_NUM_THREADS=1 python benchmarks/mm_adapter.py`` from the top of the checkout. Both sides compute the
same loss and gradients of all parameters on the same tensors; a ratio counts only if they agree. CPU time of one
thread, reference and candidate in turn, median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.data.base import ClassSet
from mmadapt.methods.mm_adapter import MMAdapter

DIM, LIMIT, GOAL = 512, 1e-5, 10.0
STATES: dict[str, dict[str, str]] = {
    "hard mask, linear (default)": {},
    "hard mask, image only (May 2024)": {"bottleneck": "lowrank", "adapt": "image"},
    "soft mask, low rank (July 2024)": {"mask": "soft", "bottleneck": "lowrank"},
    "soft mask, linear": {"mask": "soft"},
    "no mask, mlp": {"mask": "none", "bottleneck": "mlp"},
}


class Towerless(nn.Module):
    """Stands for the frozen backbone, of which a step on cached features needs width and scale."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = DIM
        self.logit_scale = nn.Parameter(torch.tensor(4.6052), requires_grad=False)


def reference_loss(method: MMAdapter, features: Tensor, labels: Tensor) -> Tensor:
    """Return the loss by the formula as it is written: texts repeated for each image, masks for each head."""
    texts, images = method.text_features, F.normalize(features, dim=-1)
    classes, batch = len(texts), len(images)
    added = torch.full((classes + 1, classes + 1), -torch.inf if method.mask == "hard" else 0.0)
    added[:classes, classes] = added[classes, :classes] = 1.0 if method.mask == "soft" else 0.0
    attention = method.attention
    assert isinstance(attention, nn.MultiheadAttention)
    tokens = torch.cat([texts.unsqueeze(1).repeat(1, batch, 1), images.unsqueeze(0)])
    low = method.down(tokens)
    update = method.up(attention(low, low, low, attn_mask=added.repeat(batch * attention.num_heads, 1, 1))[0])
    if method.adapted != "text":
        images = F.normalize(0.2 * F.normalize(update[-1], dim=-1) + 0.8 * images, dim=-1)
    adapted = tokens[:-1]
    if method.adapted != "image":
        adapted = F.normalize(0.2 * F.normalize(update[:-1], dim=-1) + 0.8 * adapted, dim=-1)
    logits = method.scale * torch.bmm(adapted.transpose(0, 1), images.unsqueeze(-1)).squeeze(-1)
    return F.cross_entropy(logits, labels)


def relative(some: list[Tensor], others: list[Tensor]) -> float:
    """Return the relative error of all gradients, and of the loss, taken as one vector."""
    one, other = (torch.cat([t.flatten() for t in tensors]) for tensors in (some, others))
    return float((one - other).norm() / other.norm())


def cpu_seconds(function: Callable[[], object]) -> float:
    """Return the CPU seconds that one call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def compare(state: str, classes: int, batch: int, pairs: int) -> bool:
    """Gate, time and print one comparison; return whether it reached the goal."""
    torch.manual_seed(classes)
    texts = F.normalize(torch.randn(classes, DIM), dim=-1)
    names = ClassSet(tuple(f"class {i}" for i in range(classes)))
    method = MMAdapter(clip=Towerless(), classes=names, text_features=texts, **STATES[state])  # type: ignore[arg-type]
    features, labels = 10 * torch.randn(batch, DIM), torch.randint(classes, (batch,))
    parameters = method.trainable_parameters()

    def step(loss: Tensor) -> list[Tensor]:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return [loss.detach(), *gradients]

    def slow() -> list[Tensor]:
        return step(reference_loss(method, features, labels))

    def fast() -> list[Tensor]:
        return step(method.loss((features, labels)))

    error = max(relative(fast()[:1], slow()[:1]), relative(fast()[1:], slow()[1:]))
    title = f"{state}, C={classes}, B={batch}: difference {error:.1e} (limit {LIMIT:.0e})"
    if error > LIMIT:
        print(f"{title}: NOT EQUAL, no ratio", flush=True)
        return False
    times = [(cpu_seconds(slow), cpu_seconds(fast)) for _ in range(pairs)]
    ratios = [a / b for a, b in times]
    before, after = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{title}: {statistics.median(ratios):.1f}x ({min(ratios):.1f}-{max(ratios):.1f} in {pairs} pairs), "
        f"goal {GOAL:g}x; {before:.0f} ms -> {after:.1f} ms CPU, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    return statistics.median(ratios) >= GOAL


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 400])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for classes in arguments.classes:
        for state in STATES:
            compare(state, classes, 32 if classes < 400 else 16, arguments.pairs)


if __name__ == "__main__":
    main()
