"""A training step of prompt learning: the shared text path against all 77 positions of every class.

Text tower of ViT-B/16 with random weights, real ImageNet class names, 32 cached image features, forward and
backward, float32. ``coop`` is a context of 16 vectors; ``maple`` two vectors in each of 9 layers; ``comma``
these with the distance to CLIP's tokens up to EOT. The reference splices embeddings and runs open_clip's
own blocks. ``cocoop`` is a context of 4 vectors and a meta-net at the paper's batch of 1 image: the
reference runs all classes' prompts for each image, as released.

By default 32 classes, and 100 for CoOp, whose kept memory is compared too; other numbers with ``--classes`` and
``--memory``. ``--all`` takes 10, 32, 100 and 400 classes (CoCoOp: up to 32), 400 with 3 pairs at most as a reference
step there takes a minute and 14 GiB, and the memory at 1000, where the reference would need 35 GiB: what its
forward pass keeps for the backward pass is counted on tensors without data. The candidate is run and counted in
the same way.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from open_clip import IMAGENET_CLASSNAMES
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from benchmarks.common import Outcome, compare, peak_mib, peak_of, relative, store
from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompted_towers import PromptedTowers
from mmadapt.clip.prompts import PromptSet, TextLayout, context_layout, plain_layout

GOALS = {32: 6.0, 100: 10.0, 400: 12.0}
MEMORY_GOALS = {100: 6.0, 1000: 10.0}
SLOW, FEW = 400, 3
"""From this number of classes on, so many pairs at most."""
IMAGES = 1
"""Images per step where each has prompts of its own."""
MOST = 32
"""Classes up to which such steps are compared among other methods; one pair takes half a minute there."""
COUNTED = 1000
"""From this number of classes on, memory is counted, not measured."""


def class_names(count: int) -> list[str]:
    """Return class names spread over ImageNet's list."""
    return [IMAGENET_CLASSNAMES[i * len(IMAGENET_CLASSNAMES) // count] for i in range(count)]


class Case:
    """One method's text side at a number of classes; both steps return the gradients of its prompts."""

    def __init__(
        self, method: str, classes: int, clip: ClipBackbone | None = None, device: str = "cpu"
    ) -> None:
        self.clip = (clip or ClipBackbone("ViT-B-16-quickgelu", None)).to(device)
        self.towers = PromptedTowers(self.clip)
        generator = torch.Generator().manual_seed(0)
        count, depth, words = {"coop": (16, 1, None), "cocoop": (4, 1, "a photo of a")}.get(
            method, (2, 9, "a photo of a")
        )
        names = class_names(classes)
        self.layout: TextLayout = context_layout(self.clip, names, count, words)
        width = self.towers.text.width
        self.prompts = [
            (0.02 * torch.randn(count, width, generator=generator)).to(device).requires_grad_()
            for _ in range(depth)
        ]
        self.images = F.normalize(torch.randn(32, self.clip.dim, generator=generator), dim=-1).to(device)
        self.labels = torch.randint(classes, (32,), generator=generator).to(device)
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
        features, states = self.whole(self.prompts)
        return self.gradients(features, states if self.distils else None)

    def whole(self, prompts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return text features (C, D) and token states (C, L, d) of whole prompts."""
        model, tokens, n = self.clip.model, self.layout.tokens.to(prompts[0].device), len(prompts[0])
        with torch.no_grad():
            embedded = model.token_embedding(tokens)
        x = torch.cat([embedded[:, :1], prompts[0].expand(len(tokens), -1, -1), embedded[:, 1 + n :]], dim=1)
        x = x + model.positional_embedding
        for i, block in enumerate(model.transformer.resblocks):
            if 0 < i < len(prompts):
                x = torch.cat([x[:, :1], prompts[i].expand(len(x), -1, -1), x[:, 1 + n :]], dim=1)
            x = block(x, attn_mask=model.attn_mask)
        features = model.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=-1)] @ model.text_projection
        return features, x


class PerImage(Case):
    """CoCoOp's step: prompts of every class for every image; gradients of its context and meta-net."""

    def __init__(
        self, method: str, classes: int, clip: ClipBackbone | None = None, device: str = "cpu"
    ) -> None:
        super().__init__(method, classes, clip, device)
        self.images, self.labels = self.images[:IMAGES], self.labels[:IMAGES]
        width, dim = self.towers.text.width, self.clip.dim
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(dim, dim // 16), nn.ReLU(), nn.Linear(dim // 16, width)).to(device)
        self.prompts += self.net.parameters()

    def of_images(self, features: Tensor) -> list[Tensor]:
        """Finish a step from text features (B, C, D)."""
        logits = 100 * (F.normalize(features, dim=-1) @ self.images[..., None])[..., 0]
        return list(torch.autograd.grad(F.cross_entropy(logits, self.labels), self.prompts))

    def contexts(self) -> Tensor:
        """Return each image's context (B, n, d)."""
        context: Tensor = self.prompts[0] + self.net(self.images)[:, None]
        return context

    def candidate(self) -> list[Tensor]:
        """Run one prefix per image."""
        return self.of_images(self.towers.encode_text_per_image(self.layout, self.contexts()))

    def reference(self) -> list[Tensor]:
        """Run all positions of all classes, one image after the other."""
        return self.of_images(torch.stack([self.whole([context])[0] for context in self.contexts()]))


def case_of(method: str, classes: int, clip: ClipBackbone) -> Case:
    """Return the case of a method."""
    return (PerImage if method == "cocoop" else Case)(method, classes, clip)


def title(method: str, classes: int) -> str:
    """Return what is compared, with the number of images where the cost depends on it."""
    return f"{method} B={IMAGES} C={classes}" if method == "cocoop" else f"{method} C={classes}"


def kept_mib(step: Callable[[], object], frozen: set[int]) -> float:
    """Return the size of all tensors that a step keeps for its backward pass, weights excepted, in MiB.

    Args:
        step: The step; run to its end.
        frozen: Storages of the weights.
    """
    sizes: dict[int, int] = {}
    held = []  # a storage that were freed could give its address to another

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in frozen:
            sizes[storage._cdata] = storage.nbytes()
            held.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(sizes.values()) / 2**20


def count(case: Case) -> dict[str, float]:
    """Return what both steps keep; the reference is run on tensors without data."""
    weights = list(case.clip.model.parameters())
    candidate = kept_mib(case.candidate, {weight.untyped_storage()._cdata for weight in weights})
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        stand_ins = [mode.from_tensor(weight) for weight in weights]
        reference = kept_mib(case.reference, {weight.untyped_storage()._cdata for weight in stand_ins})
    return {"reference": reference, "candidate": candidate}


def memory_of(method: str, classes: int, clip: ClipBackbone, measured: bool) -> dict[str, dict[str, float]]:
    """Count the memory of both sides, measure its peak if wanted and possible, and print the ratios."""
    found = {"kept": count(case_of(method, classes, clip))}
    if measured and classes < COUNTED:
        arguments = ("--methods", method, "--classes", str(classes), "--peak")
        found["peak"] = {
            side: peak_of("benchmarks.prompt_step", *arguments, side) for side in ("reference", "candidate")
        }
    goal = MEMORY_GOALS.get(classes, 6.0)
    for kind, sides in found.items():
        ratio = sides["reference"] / sides["candidate"]
        verdict = "" if ratio >= goal else ", MISSED"
        change = f"{sides['reference']:.0f} -> {sides['candidate']:.0f} MiB, {ratio:.1f}x"
        print(f"{title(method, classes)}: {kind} {change}, goal {goal:g}x{verdict}", flush=True)
    return found


def main() -> None:
    """Run the comparisons asked for and store them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["coop", "maple", "comma", "cocoop"])
    parser.add_argument("--classes", nargs="*", type=int, help="for the time")
    parser.add_argument("--memory", nargs="*", type=int, help="numbers of classes")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--all", action="store_true", help="also 10 and 400 classes; memory at 1000")
    parser.add_argument(
        "--peak", choices=["reference", "candidate"], help="print one step's peak memory in MiB"
    )
    options = parser.parse_args()
    if options.all:
        options.classes, options.memory = [10, 32, 100, 400], [100, COUNTED]
    torch.set_num_threads(1)
    clip = ClipBackbone("ViT-B-16-quickgelu", None)
    if options.peak:
        case = case_of(options.methods[0], options.classes[0], clip)
        print(peak_mib(getattr(case, options.peak)))
        return
    outcomes: list[Outcome] = []
    for method in options.methods:
        for classes in options.classes or ((32, 100) if method == "coop" else (32,)):
            if method == "cocoop" and classes > MOST and options.all:
                continue
            case = case_of(method, classes, clip)
            outcomes.append(
                compare(
                    title(method, classes), case.reference, case.candidate, relative, limit=1e-4,
                    goal=GOALS.get(classes, 0.0),
                    pairs=min(options.pairs, FEW) if classes >= SLOW else options.pairs,
                )
            )  # fmt: skip
    memory = {
        title(method, classes): memory_of(method, classes, clip, options.all or bool(options.memory))
        for method in options.methods
        if method != "cocoop"
        for classes in options.memory or ((100,) if method == "coop" else ())
    }
    print(f"stored in {store('prompt_step', outcomes, memory_mib=memory)}")


if __name__ == "__main__":
    main()
