"""Pre-train the tiny CLIP that ships with mmadapt on rendered shapes.

Usage, from the repository root::

    python scripts/pretrain_tiny.py --run runs/pretrain_tiny            # train, evaluate, export into the package
    python scripts/pretrain_tiny.py --run runs/pretrain_tiny            # the same command resumes after a stop

Every random draw is a function of the seed and the step, so an interrupted and resumed run ends with the same bits
as an uninterrupted one, and a checkpoint needs no generator states.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from open_clip import SimpleTokenizer
from open_clip.model import CLIP
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmadapt.data.shapes_geometry import SHAPES, SURFACES
from mmadapt.data.shapes_render import SIZE, STYLES, Scene, render
from mmadapt.data.shapes_words import (
    COLOUR_NAMES, COMBINATIONS, SEEN_STYLES, caption, caption_words, class_phrase, held_out, lengthen,
)  # fmt: skip
from mmadapt.tiny import MEAN, STD, WEIGHTS, save_tiny_state, tiny_config

FULL = Scene()
EASY = Scene(
    scale=(0.66, 0.88), rotation=8.0, aspect=0.04, offset=0.15, background=0.2, clutter=0, occlusion=0.0,
    noise=(0.0, 0.01),
)  # fmt: skip
SPLITS = (len(SHAPES), len(COLOUR_NAMES), len(SURFACES))


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights.

    Attributes:
        steps: Optimiser steps.
        batch: Images per step.
        seed: Seed of all draws.
        chunk: Images rendered at a time.
        every: Steps between two chunks.
        pool: Chunks kept for drawing batches.
        muon_lr: Learning rate of the matrices inside the transformers.
        adam_lr: Learning rate of everything else.
        scale_lr: Learning rate of the logit scale.
        decay: Weight decay of matrices.
        warmup: Steps of linear warm-up.
        flat: Fraction of training before the learning rate falls linearly to zero.
        easy: Fractions of training between which scenes go from easy to full difficulty.
        aux: First and last weight of the auxiliary losses.
    """

    steps: int = 9000
    batch: int = 128
    seed: int = 0
    chunk: int = 256
    every: int = 4
    pool: int = 32
    muon_lr: float = 0.015
    adam_lr: float = 2e-3
    scale_lr: float = 5e-3
    decay: float = 0.02
    warmup: int = 200
    flat: float = 0.45
    easy: tuple[float, float] = (0.03, 0.30)
    aux: tuple[float, float] = (1.0, 0.05)


class Vocabulary:
    """The BPE rows that captions use, numbered compactly; the end-of-text row stays the largest."""

    def __init__(self) -> None:
        tokenizer = SimpleTokenizer()
        self._encode = lru_cache(maxsize=None)(tokenizer.encode)
        self.rows = sorted({0, tokenizer.sot_token_id, tokenizer.eot_token_id}.union(*map(self._encode, caption_words())))
        self._compact = {row: index for index, row in enumerate(self.rows)}
        self._ends = self._compact[tokenizer.sot_token_id], self._compact[tokenizer.eot_token_id]

    def length(self, text: str) -> int:
        """Number of tokens with both ends."""
        return 2 + sum(len(self._encode(word)) for word in text.split())

    def __call__(self, texts: list[str]) -> Tensor:
        """Token indices padded to the longest text, int64 (n, L)."""
        lists = [[self._compact[row] for word in text.split() for row in self._encode(word)] for text in texts]
        width = max(map(len, lists)) + 2
        start, end = self._ends
        return torch.tensor([[start, *tokens, end] + [0] * (width - 2 - len(tokens)) for tokens in lists])


def generator(*key: int) -> Generator:
    """A private generator whose state depends on the key only."""
    return Generator().manual_seed(random.Random(repr(key)).getrandbits(62))


@dataclass(frozen=True)
class Chunk:
    """Rendered images, uint8 (n, 3, 64, 64); attributes and style (n, 5); object share per patch (n, patches)."""

    images: Tensor
    attributes: Tensor
    coverage: Tensor


def draw_attributes(combinations: list[tuple[int, int, int]], number: int, multiple: float, g: Generator) -> Tensor:
    """Random combinations with a count above one for the given share of them, int64 (number, 4)."""
    table = torch.tensor(combinations)[torch.randint(len(combinations), (number,), generator=g)]
    several = torch.rand(number, generator=g) < multiple
    count = torch.where(several, torch.randint(2, 5, (number,), generator=g), 1)
    return torch.cat([table, count[:, None]], 1)


def make_chunk(recipe: Recipe, index: int) -> Chunk:
    """Render one chunk of training images at the difficulty of its time."""
    start, end = recipe.easy
    progress = min(1.0, max(0.0, (index * recipe.every / recipe.steps - start) / (end - start)))
    values = {}
    for name, full in asdict(FULL).items():
        easy = getattr(EASY, name)
        if isinstance(full, tuple):
            values[name] = tuple(a + (b - a) * progress for a, b in zip(easy, full, strict=True))
        else:
            values[name] = type(full)(easy + (full - easy) * progress)
    g = generator(recipe.seed, 1, index)
    seen = [combination for combination in COMBINATIONS if combination not in held_out()]
    attributes = draw_attributes(seen, recipe.chunk, 0.10 * progress, g)
    other = torch.randint(1, len(SEEN_STYLES), (recipe.chunk,), generator=g)
    style = torch.where(torch.rand(recipe.chunk, generator=g) < 0.16 * progress, other, 0)
    images, mask = render(attributes, style, g, Scene(**values))
    patch = tiny_config()["vision_cfg"]["patch_size"]
    coverage = F.avg_pool2d(mask[:, None], patch).flatten(1)
    return Chunk(images, torch.cat([attributes, style[:, None]], 1), coverage)


class Pool:
    """The most recent chunks, made on demand, from which batches are drawn."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._chunks: dict[int, Chunk] = {}

    def batch(self, step: int) -> Chunk:
        """The images of one step, each mirrored with probability one half."""
        recipe, last = self.recipe, step // self.recipe.every + 3
        live = range(max(0, last - recipe.pool + 1), last + 1)
        self._chunks = {i: self._chunks[i] if i in self._chunks else make_chunk(recipe, i) for i in live}
        g = generator(recipe.seed, 2, step)
        pick = torch.randint(len(live) * recipe.chunk, (recipe.batch,), generator=g).tolist()
        rows = [(self._chunks[live[p // recipe.chunk]], p % recipe.chunk) for p in pick]
        images = torch.stack([chunk.images[row] for chunk, row in rows])
        attributes = torch.stack([chunk.attributes[row] for chunk, row in rows])
        coverage = torch.stack([chunk.coverage[row] for chunk, row in rows])
        mirrored = torch.rand(recipe.batch, generator=g) < 0.5
        side = math.isqrt(coverage.shape[1])
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        squares = coverage.unflatten(1, (side, side))
        coverage = torch.where(mirrored[:, None, None], squares.flip(-1), squares).flatten(1)
        return Chunk(images, attributes, coverage)


def normalise(images: Tensor) -> Tensor:
    """From uint8 to the network's input, float32."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (images.float() / 255 - mean) / std


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
        """Unit text features; causal attention makes it exact to leave out the columns after the longest text."""
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
            local = local + (weight * F.cross_entropy(scores.transpose(1, 2), labels, reduction="none")).sum() / 3
        return contrastive, whole, local


class Trainer:
    """Model, optimisers and the step counter; `step` is the only thing that changes them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe, self.vocabulary, self.pool, self.step = recipe, Vocabulary(), Pool(recipe), 0
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.model = Student(len(self.vocabulary.rows))
        named = dict(self.model.named_parameters())
        inner = [n for n, p in named.items() if "resblocks" in n and p.ndim == 2]
        scale = ["clip.logit_scale"]
        outer = [n for n, p in named.items() if n not in inner and p.ndim >= 2 and "embedding" not in n]
        rest = [n for n in named if n not in {*inner, *scale, *outer}]
        self.muon = torch.optim.Muon([named[n] for n in inner], lr=recipe.muon_lr, weight_decay=recipe.decay)
        self.adam = torch.optim.AdamW(
            [
                {"params": [named[n] for n in outer], "lr": recipe.adam_lr, "weight_decay": recipe.decay},
                {"params": [named[n] for n in rest], "lr": recipe.adam_lr, "weight_decay": 0.0},
                {"params": [named[n] for n in scale], "lr": recipe.scale_lr, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
            eps=1e-6,
        )
        for group in [*self.muon.param_groups, *self.adam.param_groups]:
            group["peak"] = group["lr"]

    def texts(self, batch: Chunk) -> tuple[Tensor, Tensor]:
        """Captions of a batch as tokens (B, L), and what each gives away (B, 5)."""
        rng = random.Random(f"{self.recipe.seed}/{self.step}")
        drawn = [caption(*row, rng) for row in batch.attributes.tolist()]
        texts = [text for text, _ in drawn]
        if self.step % 8 == 7:
            context = self.model.clip.context_length
            longer = [lengthen(text, rng) for text in texts]
            fits = [self.vocabulary.length(text.replace(".", " .")) <= context for text in longer]
            texts = [a if fit else b for a, b, fit in zip(longer, texts, fits, strict=True)]
        tokens = self.vocabulary([text.replace(".", " .") for text in texts])
        return tokens, torch.tensor([mentioned for _, mentioned in drawn])

    def advance(self) -> dict[str, float]:
        """Take one optimiser step."""
        recipe, done = self.recipe, self.step / self.recipe.steps
        factor = min(1.0, (self.step + 1) / recipe.warmup, (1 - done) / (1 - recipe.flat))
        for group in [*self.muon.param_groups, *self.adam.param_groups]:
            group["lr"] = group["peak"] * factor
        batch = self.pool.batch(self.step)
        contrastive, whole, local = self.model.losses(batch, *self.texts(batch))
        weight = recipe.aux[0] + (recipe.aux[1] - recipe.aux[0]) * done
        self.muon.zero_grad()
        self.adam.zero_grad()
        (contrastive + weight * (whole + local)).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.muon.step()
        self.adam.step()
        with torch.no_grad():
            self.model.clip.logit_scale.clamp_(0, math.log(100))
        self.step += 1
        return {"contrastive": contrastive.item(), "pooled": whole.item(), "patches": local.item()}

    def save(self, path: Path) -> None:
        """Write a checkpoint that replaces the old one at once."""
        temporary = path.with_suffix(".tmp")
        state = {"model": self.model.state_dict(), "muon": self.muon.state_dict(), "adam": self.adam.state_dict()}
        torch.save({**state, "step": self.step, "recipe": asdict(self.recipe)}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: If it was made with another recipe.
        """
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was made with another recipe: {state['recipe']}; choose another --run folder")
        for name in ("model", "muon", "adam"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


@torch.no_grad()
def evaluate(model: Student, vocabulary: Vocabulary, number: int = 600) -> dict[str, Any]:
    """Zero-shot accuracy [%] on photos of seen and of held-out combinations, 600 ways and per attribute."""
    prompts = [
        [f"a photo of a {name} ." for name in SHAPES],
        [f"a photo of a {name} shape ." for name in COLOUR_NAMES],
        [f"a photo of a {name} shape ." for name in SURFACES],
        [f"a photo of a {class_phrase(combination)} ." for combination in COMBINATIONS],
    ]
    model.eval()
    weights = [model.encode_text(vocabulary(texts)) for texts in prompts]
    result: dict[str, Any] = {"logit_scale": round(model.clip.logit_scale.exp().item(), 2)}
    for name, wanted in (("seen", False), ("held", True)):
        g = generator(12345, int(wanted))
        attributes = draw_attributes([c for c in COMBINATIONS if (c in held_out()) == wanted], number, 0.0, g)
        images, _ = render(attributes, torch.full((number,), STYLES.index("photo")), g, FULL)
        features = torch.cat([model.clip.encode_image(normalise(part)) for part in images.split(200)])
        joint = attributes[:, 0] * SPLITS[1] * SPLITS[2] + attributes[:, 1] * SPLITS[2] + attributes[:, 2]
        for what, weight, label in zip(
            ("shape", "colour", "surface", "joint"), weights, [*attributes[:, :3].T, joint], strict=True
        ):
            result[f"{what}_{name}"] = round(100 * ((features @ weight.T).argmax(1) == label).float().mean().item(), 1)
    model.train()
    return result


def export(trainer: Trainer, scores: dict[str, Any], path: Path) -> None:
    """Write the weights as the package ships them."""
    metadata = {
        "recipe": json.dumps(asdict(trainer.recipe)),
        "step": f"{trainer.step} of {trainer.recipe.steps}",
        "evaluation": json.dumps(scores),
        "held_out": json.dumps(sorted(held_out())),
    }
    save_tiny_state(trainer.model.clip.state_dict(), torch.tensor(trainer.vocabulary.rows), path, metadata)


def train(
    recipe: Recipe, run: Path, weights: Path, *, evaluate_every: int = 250, save_every: int = 250, stop: int | None = None
) -> Trainer:
    """Train, or continue training, until the last step or until `stop`; evaluate, log and export on the way."""
    run.mkdir(parents=True, exist_ok=True)
    trainer, checkpoint = Trainer(recipe), run / "last.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rate = TextColumn("{task.fields[rate]:.0f} images/s")
    end, start, first = min(recipe.steps, stop or recipe.steps), time.monotonic(), trainer.step
    with Progress(*columns, TimeRemainingColumn(), rate) as progress, (run / "log.jsonl").open("a") as log:
        task = progress.add_task("pre-training", total=recipe.steps, completed=first, rate=0.0)
        while trainer.step < end:
            losses, elapsed = trainer.advance(), time.monotonic() - start
            speed = (trainer.step - first) * recipe.batch / elapsed
            progress.update(task, completed=trainer.step, rate=speed)
            final = trainer.step == recipe.steps
            if trainer.step % save_every == 0 or trainer.step == end:
                trainer.save(checkpoint)
            if trainer.step % evaluate_every == 0 or final:
                scores = evaluate(trainer.model, trainer.vocabulary, 1200 if final else 300)
                entry = {"step": trainer.step, "rate": round(speed), **losses, **scores}
                log.write(json.dumps(entry) + "\n")
                log.flush()
                progress.console.print(json.dumps(scores))
                export(trainer, scores, weights if final else run / weights.name)
    return trainer


def main() -> None:
    """Parse the command line and train."""
    summary, _, _ = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/pretrain_tiny"), help="folder of checkpoint and log")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="file to export to")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="seed of all draws")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--stop", type=int, help="stop after this step; resume later")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = replace(Recipe(), steps=arguments.steps, seed=arguments.seed)
    with sdpa_kernel(SDPBackend.MATH):
        train(recipe, arguments.run, arguments.weights, stop=arguments.stop)


if __name__ == "__main__":
    main()
