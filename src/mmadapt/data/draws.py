"""How the published codes draw their shots: positions of images from labels and a seed. Imports no torch."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

Sampling = Literal["coop", "tip", "clip_lora"]
"""Whose draw: CoOp (arXiv 2109.01134), Tip-Adapter (2111.03930) or CLIP-LoRA (2405.18541)."""

Positions = list[int]


def draw_positions(
    train: Sequence[int],
    val: Sequence[int] | None,
    shots: int,
    val_shots: int | None,
    seed: int,
    sampling: Sampling = "coop",
) -> tuple[Positions, Positions]:
    """Draw training and validation shots of every class with one private generator.

    Classes come in the order of their first image. CoOp draws train, then val, and a class with fewer
    images gives all of them; Tip-Adapter fills such a class up by drawing with replacement; CLIP-LoRA does so
    too and draws val before train, so that equal seeds give other images.

    Args:
        train: Labels of the train split.
        val: Labels of the val split; None draws the validation shots from train images that are not shots.
        shots: Training images per class.
        val_shots: Validation images per class; None takes the whole val split.
        seed: Seed of the draw; equal to the published codes' for seeds of 1 and more.
        sampling: Whose procedure.

    Returns:
        Positions in the train split, and positions in the val split (in the train split if ``val`` is None).
    """
    generator = random.Random(seed)
    repeat = sampling != "coop"
    if val is None:
        return _from_train(train, shots, 4 if val_shots is None else val_shots, generator, sampling)
    if sampling == "clip_lora":
        drawn_val = _draw(_by_class(val), val_shots, generator, repeat)
        return _draw(_by_class(train), shots, generator, repeat), drawn_val
    drawn_train = _draw(_by_class(train), shots, generator, repeat)
    return drawn_train, _draw(_by_class(val), val_shots, generator, repeat)


def _from_train(
    train: Sequence[int], shots: int, val_shots: int, generator: random.Random, sampling: Sampling
) -> tuple[Positions, Positions]:
    """Draw both from train images. CLIP-LoRA draws both at once, class by class; the others train first."""
    classes = _by_class(train)
    if sampling != "clip_lora":
        drawn = _draw(classes, shots, generator, repeat=sampling == "tip")
        taken = set(drawn)
        rest = [[position for position in positions if position not in taken] for positions in classes]
        return drawn, _draw(rest, val_shots, generator, repeat=False)
    drawn, drawn_val = [], []
    for positions in classes:
        both = generator.sample(positions, min(shots + val_shots, len(positions)))
        drawn += both[:shots]
        drawn_val += both[shots:]
    return drawn, drawn_val


def _by_class(labels: Sequence[int]) -> list[Positions]:
    """Return the positions of each class, classes in the order of their first image."""
    classes: defaultdict[int, Positions] = defaultdict(list)
    for position, label in enumerate(labels):
        classes[label].append(position)
    return list(classes.values())


def _draw(
    classes: Sequence[Positions], shots: int | None, generator: random.Random, repeat: bool
) -> Positions:
    if shots is None:
        return sorted(position for positions in classes for position in positions)
    drawn: Positions = []
    for positions in classes:
        if len(positions) >= shots:
            drawn += generator.sample(positions, shots)
        elif repeat and positions:
            drawn += generator.choices(positions, k=shots)
        else:
            drawn += positions
    return drawn
