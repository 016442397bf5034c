"""A training step of prompt learning: the shared text path against all 77 positions of every class.

Text tower of ViT-B/16 with random weights, real ImageNet class names, 32 cached image features, forward and
backward, float32. ``coop`` is a context of 16 vectors; ``maple`` two vectors in each of 9 layers; ``comma``
these with the distance to CLIP's tokens up to EOT. The reference splices embeddings and runs open_clip's
own blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from open_clip import IMAGENET_CLASSNAMES
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import Outcome, compare, peak_mib, peak_of, relative, store
from mmadapt.clip import ClipBackbone
from mmadapt.prompts import PromptSet, TextLayout, context_layout, plain_layout
from mmadapt.towers import PromptedTowers

GOALS = {32: 6.0, 100: 10.0, 400: 12.0}
MEMORY_GOAL = 6.0
Step = Callable[[], list[Tensor]]


def class_names(count: int) -> list[str]:
    """Return class names spread over ImageNet's list."""
    return [IMAGENET_CLASSNAMES[i * len(IMAGENET_CLASSNAMES) // count] for i in range(count)]


class Case:
    """One method's text side at a number of classes; both steps return the gradients of its prompts."""

    def __init__(self, method: str, classes: int, clip: ClipBackbone | None = None) -> None:
        self.clip = clip or ClipBackbone("ViT-B-16-quickgelu", None)
        self.towers = PromptedTowers(self.clip)
        generator = torch.Generator().manual_seed(0)
        count, depth, words = (16, 1, None) if method == "coop" else (2, 9, "a photo of a")
        names = class_names(classes)
        self.layout: TextLayout = context_layout(self.clip, names, count, words)
        width = self.towers.text.width
        self.prompts = [
            (0.02 * torch.randn(count, width, generator=generator)).requires_grad_() for _ in range(depth)
        ]
        self.images = F.normalize(torch.randn(32, self.clip.dim, generator=generator), dim=-1)
        self.labels = torch.randint(classes, (32,), generator=generator)
        self.distils = method == "comma"
        if self.distils:
            template = plain_layout(self.clip, [f"a photo of a {name}, a type of thing." for name in names])
            with torch.no_grad():
                taps = self.towers.encode_text(template, taps=1).taps[0]
            last = torch.minimum(self.layout.eot, template.eot) + 1
            self.rows = torch.arange(classes).repeat_interleave(last)
            self.columns = torch.cat([torch.arange(int(end)) for end in last])
            self.teacher = F.normalize(taps[self.rows, self.columns], dim=-1)

    def gradients(self, features: Tensor, states: Tensor | None) -> list[Tensor]:
        """Finish a step from text features (C, D) and token states (C, T, d)."""
        loss = F.cross_entropy(100 * self.images @ F.normalize(features, dim=-1).T, self.labels)
        if states is not None:
            tokens = F.normalize(states[self.rows, self.columns], dim=-1)
            loss = loss + 1 - (tokens * self.teacher).sum(-1).mean()
        return list(torch.autograd.grad(loss, self.prompts))

    def candidate(self) -> list[Tensor]:
        """Take the shared path."""
        out = self.towers.encode_text(self.layout, PromptSet(tuple(self.prompts)), taps=int(self.distils))
        return self.gradients(out.features, out.taps[0] if self.distils else None)

    def reference(self) -> list[Tensor]:
        """Take the formula as published: all positions, all classes."""
        model, tokens, n = self.clip.model, self.layout.tokens, len(self.prompts[0])
        with torch.no_grad():
            embedded = model.token_embedding(tokens)
        x = torch.cat(
            [embedded[:, :1], self.prompts[0].expand(len(tokens), -1, -1), embedded[:, 1 + n :]], dim=1
        )
        x = x + model.positional_embedding
        for i, block in enumerate(model.transformer.resblocks):
            if 0 < i < len(self.prompts):
                x = torch.cat([x[:, :1], self.prompts[i].expand(len(x), -1, -1), x[:, 1 + n :]], dim=1)
            x = block(x, attn_mask=model.attn_mask)
        features = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection
        return self.gradients(features, x if self.distils else None)


def main() -> None:
    """Run the comparisons asked for and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["coop", "maple", "comma"])
    parser.add_argument("--classes", nargs="+", type=int, default=[32, 100])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument(
        "--peak", choices=["reference", "candidate"], help="print one step's peak memory in MiB"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    clip = ClipBackbone("ViT-B-16-quickgelu", None)
    if options.peak:
        case = Case(options.methods[0], options.classes[0], clip)
        print(peak_mib(getattr(case, options.peak)))
        return
    outcomes: list[Outcome] = []
    memory: dict[str, dict[str, float]] = {}
    for method in options.methods:
        for classes in options.classes:
            case = Case(method, classes, clip)
            outcomes.append(
                compare(
                    f"{method} C={classes}",
                    case.reference,
                    case.candidate,
                    relative,
                    limit=1e-4,
                    goal=GOALS.get(classes, 10.0),
                    pairs=options.pairs,
                )
            )
            if classes >= 100 and not options.no_memory:
                arguments = ("--methods", method, "--classes", str(classes), "--peak")
                peaks = {
                    side: peak_of("benchmarks.prompt_step", *arguments, side)
                    for side in ("reference", "candidate")
                }
                memory[f"{method} C={classes}"] = peaks
                ratio = peaks["reference"] / peaks["candidate"]
                change = f"{peaks['reference']:.0f} -> {peaks['candidate']:.0f} MiB, {ratio:.1f}x"
                verdict = "" if ratio >= MEMORY_GOAL else ", MISSED"
                print(f"{method} C={classes}: peak {change}, goal {MEMORY_GOAL:g}x{verdict}", flush=True)
    print(f"stored in {store('prompt_step', outcomes, peak_mib=memory)}")


if __name__ == "__main__":
    main()
