"""Multi-Modal Adapter: one training step against plain attention over C + 1 tokens for each image.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.mm_adapter`` from the top of the checkout. Both sides compute the
same loss and gradients of all parameters on the same tensors; a ratio counts only if they agree. CPU time of one
thread, reference and candidate in turn, median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import Outcome, compare, relative, store
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


def difference(some: list[Tensor], others: list[Tensor]) -> float:
    """Return the larger relative error of the loss and of all gradients taken as one vector."""
    gradients = [torch.cat([tensor.flatten() for tensor in tensors[1:]]) for tensors in (some, others)]
    return max(relative(some[:1], others[:1]), relative(gradients[:1], gradients[1:]))


def measure(state: str, classes: int, batch: int, pairs: int) -> Outcome:
    """Gate, time and print one comparison."""
    torch.manual_seed(classes)
    texts = F.normalize(torch.randn(classes, DIM), dim=-1)
    names = ClassSet(tuple(f"class {i}" for i in range(classes)))
    method = MMAdapter(clip=Towerless(), classes=names, text_features=texts, **STATES[state])  # type: ignore[arg-type]
    features, labels = 10 * torch.randn(batch, DIM), torch.randint(classes, (batch,))
    parameters = method.trainable_parameters()

    def step(loss: Tensor) -> list[Tensor]:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        return [loss.detach(), *gradients]

    return compare(
        f"{state}, C={classes}, B={batch}",
        lambda: step(reference_loss(method, features, labels)),
        lambda: step(method.loss((features, labels))),
        difference,
        limit=LIMIT,
        goal=GOAL,
        pairs=pairs,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[100, 400])
    arguments = parser.parse_args()
    outcomes = [
        measure(state, classes, 32 if classes < 400 else 16, arguments.pairs)
        for classes in arguments.classes
        for state in STATES
    ]
    print(f"stored in {store('mm_adapter', outcomes)}")


if __name__ == "__main__":
    main()
