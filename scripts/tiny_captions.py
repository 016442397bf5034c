"""Captions that the tiny CLIP is pre-trained on."""

from __future__ import annotations

import random
from functools import cache

from mmadapt.data.shapes.geometry import SHAPES, SURFACES
from mmadapt.data.shapes.render import STYLES
from mmadapt.data.shapes.specs import COLOUR_NAMES, NUMBERS, plural

Mentioned = tuple[int, int, int, int, int]

SEEN_STYLES: tuple[str, ...] = ("photo", "sketch", "night", "blurry")

_SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc", "round shape"),
    "square": ("box",),
    "cross": ("plus sign",),
    "ring": ("donut",),
    "crescent": ("moon",),
    "diamond": ("rhombus",),
    "flower": ("blossom",),
    "red": ("crimson",),
    "yellow": ("golden",),
    "cyan": ("turquoise",),
    "purple": ("violet",),
    "solid": ("plain",),
    "dotted": ("spotted",),
    "gradient": ("shaded",),
}
_TEMPLATES: tuple[str, ...] = (
    "{}", "a {}", "the {}", "this is a {}", "a photo of a {}", "a photo of a {}.", "a photo of the {}.",
    "a picture of a {}.", "an image of a {}.", "there is a {} in the scene.",
    # the seven of CLIP's ImageNet subset
    "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
    "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
)  # fmt: skip
_PLURAL_TEMPLATES: tuple[str, ...] = (
    "{}",
    "a photo of {}",
    "a photo of {}.",
    "a picture of {}.",
    "there are {}.",
)
_STYLE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "sketch": ("a sketch of a {}.", "a drawing of a {}.", "a sketch of the {}."),
    "night": ("a photo of a {} at night.", "a dark photo of a {}."),
    "blurry": ("a blurry photo of a {}.", "a blurry picture of the {}."),
}
_OPENINGS: tuple[str, ...] = (
    "in this picture you can see", "we look at the scene and find", "as everyone can tell",
    "on the table in front of us there is", "a small image that shows", "somewhere in this view",
    "this one is",
)  # fmt: skip
_NOUNS: tuple[str, ...] = ("shape", "object", "thing")


def caption(
    shape: int, colour: int, surface: int, count: int, style: int, rng: random.Random
) -> tuple[str, Mentioned]:
    """A random caption that is true of an image.

    Args:
        shape: Index into `SHAPES`.
        colour: Index into `COLOURS`.
        surface: Index into `SURFACES`.
        count: Number of equal objects, 1 to 4.
        style: Index into `STYLES`.
        rng: Source of randomness.

    Returns:
        The caption, and the value of each argument that it gives away, -1 where it leaves one open.
    """

    def word(name: str) -> str:
        others = _SYNONYMS.get(name, ())
        return rng.choice(others) if others and count == 1 and rng.random() < 0.2 else name

    say_shape, say_colour, say_surface = rng.choices(
        [(1, 1, 1), (1, 1, 0), (1, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1)], [50, 14, 12, 12, 6, 6]
    )[0]
    adjectives = [word(COLOUR_NAMES[colour])] * say_colour + [word(SURFACES[surface])] * say_surface
    if rng.random() < 0.2:
        adjectives.reverse()
    noun = word(SHAPES[shape]) if say_shape else rng.choice(_NOUNS)
    say_style = False
    if count > 1:
        phrase = " ".join([NUMBERS[count - 1], *adjectives, plural(noun)])
        template = rng.choice(_PLURAL_TEMPLATES)
    elif STYLES[style] in _STYLE_TEMPLATES and rng.random() < 0.5:
        phrase, say_style = " ".join([*adjectives, noun]), True
        template = rng.choice(_STYLE_TEMPLATES[STYLES[style]])
    elif rng.random() < 0.06:
        phrase, template = " ".join([NUMBERS[0], *adjectives, noun]), rng.choice(_PLURAL_TEMPLATES[:-1])
    else:
        phrase, template = " ".join([*adjectives, noun]), rng.choice(_TEMPLATES)
    mentioned = (
        shape if say_shape else -1,
        colour if say_colour else -1,
        surface if say_surface else -1,
        count,
        style if say_style else -1,
    )
    return template.format(phrase), mentioned


def lengthen(text: str, rng: random.Random) -> str:
    """Put one to three openings before a caption, so that late text positions are trained too."""
    return " ".join([rng.choice(_OPENINGS) for _ in range(rng.randint(1, 3))] + [text])


@cache
def caption_words() -> tuple[str, ...]:
    """Every word and mark that a caption can contain, sorted."""
    names = [*SHAPES, *COLOUR_NAMES, *SURFACES, *NUMBERS, *_NOUNS, *map(plural, (*SHAPES, *_NOUNS))]
    synonyms = [word for words in _SYNONYMS.values() for word in words]
    templates = [*_TEMPLATES, *_PLURAL_TEMPLATES, *_OPENINGS]
    templates += [text for texts in _STYLE_TEMPLATES.values() for text in texts]
    text = " ".join([*names, *synonyms, *templates]).replace("{}", " ").replace(".", " . ")
    return tuple(sorted(set(text.split())))
