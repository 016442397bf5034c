"""A vectorised renderer of small scenes: one kind of object on a cluttered background, 64 x 64 RGB.

All randomness comes from the generator that is passed in; the global random state is neither read nor
advanced.  Images are equal bit for bit for the same generator state, batch and scene, whatever the number of
threads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from mmadapt.data.shapes.geometry import COLOURS, SHAPES, SURFACES, signed_distance, surface_field

SIZE = 64
STYLES: tuple[str, ...] = ("photo", "sketch", "night", "blurry", "noise", "inverted", "pixelated", "foggy")


@dataclass(frozen=True)
class Scene:
    """How difficult the scenes are; pairs are the ends of a uniform draw, per image.

    Attributes:
        scale: Half extent of the object [half images].
        rotation: Largest rotation to either side [degrees].
        aspect: Largest relative stretch of the object.
        offset: Largest shift of the object from the centre [half images].
        background: Contrast of the background in [0, 1].
        clutter: Largest number of distracting pieces.
        clutter_size: Half extent of a piece [half images].
        occlusion: Probability that one of the pieces lies over the object.
        frequency: Half-periods of the surface per object unit.
        mix: Strength of the surface's second colour.
        jitter: Largest change of each colour channel of the object.
        gain: Contrast of the finished image.
        noise: Standard deviation of the pixel noise.
        warmth: Strength of a warm colour cast in [0, 1].
        inflate: Rounding of outlines [object units].
    """

    scale: tuple[float, float] = (0.46, 0.80)
    rotation: float = 25.0
    aspect: float = 0.12
    offset: float = 0.32
    background: float = 1.0
    clutter: int = 3
    clutter_size: tuple[float, float] = (0.05, 0.15)
    occlusion: float = 0.20
    frequency: tuple[float, float] = (1.9, 2.7)
    mix: tuple[float, float] = (0.60, 0.85)
    jitter: float = 0.08
    gain: tuple[float, float] = (0.85, 1.15)
    noise: tuple[float, float] = (0.005, 0.03)
    warmth: float = 0.0
    inflate: float = 0.0


@dataclass(frozen=True)
class Quirks:
    """Per-image deviations from the scene, by which a class can have a look of its own.

    Attributes:
        size: Factor on the object's scale, (B,).
        turn: Extra rotation [rad], (B,).
        stretch: Factor on the object's width over its height, (B,).
        tone: Added to the object's colour, (B, 3).
        backdrop: Added to the background, (B, 3).
        companion: Index into `SHAPES` of a small second object, -1 for none, (B,).
        place: Centre of the second object [half images], (B, 2).
        companion_colour: Its colour, (B, 3).
    """

    size: Tensor
    turn: Tensor
    stretch: Tensor
    tone: Tensor
    backdrop: Tensor
    companion: Tensor
    place: Tensor
    companion_colour: Tensor

    def take(self, index: Tensor) -> Quirks:
        """The quirks of the chosen rows, so that a table per class becomes one per image."""
        return Quirks(**{name: value[index] for name, value in vars(self).items()})


_PALETTE = torch.tensor(list(COLOURS.values()))
_WARM = torch.tensor([[1.0, 0.10, 0.0], [0.08, 0.80, 0.06], [0.0, 0.10, 0.62]])
# Centres of 1, 2, 3 and 4 equal objects [half images]; unused places lie far outside.
_CENTRES = torch.tensor(
    [
        [[0.0, 0.0], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]],
        [[-0.48, 0.1], [0.48, -0.1], [9.0, 9.0], [9.0, 9.0]],
        [[-0.48, 0.44], [0.48, 0.36], [0.0, -0.48], [9.0, 9.0]],
        [[-0.48, 0.48], [0.48, 0.48], [-0.48, -0.48], [0.48, -0.48]],
    ]
)
_COUNT_SCALE = torch.tensor([1.0, 0.58, 0.56, 0.54])


class _Draw:
    """Uniform draws, one per image, from a private generator."""

    def __init__(self, batch: int, generator: Generator) -> None:
        self.batch, self.generator = batch, generator

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Draw (B, 1, 1), or (B, *shape), uniform in [low, high)."""
        values = torch.rand(self.batch, *(shape or (1, 1)), generator=self.generator)
        return low + (high - low) * values


def _grid() -> tuple[Tensor, Tensor]:
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    return axis[None, None, :].expand(1, SIZE, SIZE), -axis[None, :, None].expand(1, SIZE, SIZE)


def _outlines(shape: Tensor, x: Tensor, y: Tensor) -> Tensor:
    distance = torch.full_like(x, 9.0)
    for kind in range(len(SHAPES)):
        rows = (shape == kind).nonzero().flatten()
        if len(rows):
            distance[rows] = signed_distance(kind, x[rows], y[rows])
    return distance


def _background(scene: Scene, draw: _Draw, gx: Tensor, gy: Tensor) -> Tensor:
    coarse, tint = draw(0, 1, 3, 5, 5), draw(0, 1, 3, 1, 1)
    coarse, tint = (coarse + coarse.mean(1, keepdim=True)) / 2, (tint + tint.mean(1, keepdim=True)) / 2
    coarse = 0.55 * coarse + 0.45 * tint
    field = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    angle = draw(0, 2 * math.pi)
    waves = torch.sin((torch.cos(angle) * gx + torch.sin(angle) * gy) * draw(4, 22) + draw(0, 2 * math.pi))
    field = field + (waves * draw(0, 0.12))[:, None]
    return field * scene.background + field.mean((2, 3), keepdim=True) * (1 - scene.background)


def _paste(image: Tensor, cover: Tensor, colour: Tensor) -> Tensor:
    """Lay a colour (B, 3) or (B, 3, H, W) over an image where the cover (B, H, W) says so."""
    colour = colour[:, :, None, None] if colour.ndim == 2 else colour
    return torch.lerp(image, colour.expand_as(image), cover[:, None])


def _pieces(scene: Scene, draw: _Draw, gx: Tensor, gy: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Covers (B, H, W) and colours (B, 3) of the distracting pieces: squares and ellipses."""
    pieces = []
    number = (draw(0, 1) * (scene.clutter + 1)).floor()
    for k in range(scene.clutter):
        size, angle, kind = draw(*scene.clutter_size), draw(0, math.pi), draw(0, 1)
        dx, dy = gx - draw(-1, 1), gy - draw(-1, 1)
        along = torch.cos(angle) * dx + torch.sin(angle) * dy
        across = (torch.cos(angle) * dy - torch.sin(angle) * dx) * (1 + 2 * kind)
        square = torch.maximum(along.abs(), across.abs())
        distance = torch.where(kind > 0.5, square, torch.sqrt(along**2 + across**2 + 1e-9)) - size
        colour = draw(0, 1, 3)
        cover = (0.5 - distance * SIZE / 2).clamp(0, 1) * (number > k).float()
        pieces.append((cover, 0.75 * colour + 0.25 * colour.mean(1, True)))
    return pieces


def _rows(style: Tensor, name: str) -> Tensor:
    return (style == STYLES.index(name)).nonzero().flatten()


def _restyle(image: Tensor, style: Tensor, draw: _Draw, noise: Tensor) -> Tensor:
    """Apply the photographic styles and the pixel noise; `sketch` is drawn earlier."""
    strength = draw(0, 1, 1, 1, 1)
    if len(r := _rows(style, "night")):
        dark = torch.tensor([0.34, 0.38, 0.52])[None, :, None, None] * (0.7 + 0.6 * strength[r])
        image[r] = image[r].clamp(0, 1) * dark + 0.02
    if len(r := _rows(style, "blurry")):
        soft = F.avg_pool2d(F.pad(image[r], (2, 2, 2, 2), mode="replicate"), 3, 1)
        image[r] = F.avg_pool2d(soft, 3, 1)
    if len(r := _rows(style, "pixelated")):
        image[r] = F.interpolate(F.avg_pool2d(image[r], 3, 3), size=(SIZE, SIZE), mode="nearest")
    if len(r := _rows(style, "foggy")):
        fog = 0.30 + 0.25 * strength[r]
        image[r] = image[r] * (1 - fog) + 0.78 * fog
    noise = noise + 0.13 * (style == STYLES.index("noise")).float()[:, None, None]
    image = image + torch.randn(image.shape, generator=draw.generator) * noise[:, None]
    image = image.clamp(0, 1)
    if len(r := _rows(style, "inverted")):
        image[r] = 1 - image[r]
    return image


def render(
    attributes: Tensor, style: Tensor, generator: Generator, scene: Scene, quirks: Quirks | None = None
) -> tuple[Tensor, Tensor]:
    """Render a batch of scenes.

    Args:
        attributes: Shape, colour, surface and count (1 to 4) of each image's object, int64 (B, 4).
        style: Indices into `STYLES`, int64 (B,).
        generator: The private source of all randomness; it is advanced.
        scene: How difficult the scenes are.
        quirks: Deviations per image.

    Returns:
        Images, uint8 (B, 3, 64, 64), and each pixel's share of the object, float32 (B, 64, 64).
    """
    shape, colour, surface, count = attributes.unbind(1)
    draw = _Draw(len(attributes), generator)
    gx, gy = _grid()
    scale = draw(*scene.scale) * _COUNT_SCALE[count - 1][:, None, None]
    turn, aspect = math.radians(scene.rotation) * draw(-1, 1), 1 + scene.aspect * draw(-1, 1)
    if quirks is not None:
        scale, turn = scale * quirks.size[:, None, None], turn + quirks.turn[:, None, None]
        aspect = aspect * quirks.stretch[:, None, None]
    room = (1 - scale).clamp(min=0).clamp(max=scene.offset) * (count == 1)[:, None, None]
    shift = (0.04 + room * 0.96) * draw(-1, 1), (0.04 + room * 0.96) * draw(-1, 1)
    dx, dy = (gx - shift[0]), (gy - shift[1])
    if len(r := (count > 1).nonzero().flatten()):
        # Each pixel belongs to the nearest of the equal objects, so one outline serves them all.
        centres = _CENTRES[count[r] - 1][:, :, :, None, None]
        cx, cy = dx[r][:, None] - centres[:, :, 0], dy[r][:, None] - centres[:, :, 1]
        nearest = (cx * cx + cy * cy).argmin(1, keepdim=True)
        dx[r], dy[r] = cx.gather(1, nearest)[:, 0], cy.gather(1, nearest)[:, 0]
    x = (torch.cos(turn) * dx + torch.sin(turn) * dy) / scale * aspect
    y = (torch.cos(turn) * dy - torch.sin(turn) * dx) / scale / aspect
    distance = (_outlines(shape, x, y) - scene.inflate) * scale * (SIZE / 2)
    mask = (0.5 - distance).clamp(0, 1)

    frequency, angle, phase = draw(*scene.frequency), draw(0, math.pi), draw(0, 2 * math.pi)
    second = torch.zeros_like(x)
    for kind in range(1, len(SURFACES)):
        if len(r := (surface == kind).nonzero().flatten()):
            second[r] = surface_field(kind, x[r], y[r], frequency[r], angle[r], phase[r])
    base = _PALETTE[colour] + scene.jitter * draw(-1, 1, 3)
    if quirks is not None:
        base = base + quirks.tone
    base = base.clamp(0, 1)
    luminance = 0.30 * base[:, 0] + 0.59 * base[:, 1] + 0.11 * base[:, 2]
    lighter = (draw(0, 1, 1) < (0.95 - luminance).clamp(0.05, 0.95)[:, None]).float()
    partner = torch.lerp(base, lighter.expand_as(base), draw(*scene.mix, 1))
    paint = torch.lerp(base[:, :, None, None], partner[:, :, None, None], second[:, None])
    paint = paint * (1 + 0.18 * draw(-1, 1) * x.clamp(-1, 1))[:, None]

    image = _background(scene, draw, gx, gy)
    if quirks is not None:
        image = image + quirks.backdrop[:, :, None, None]
        place = quirks.place[:, :, None, None]
        nearby = _outlines(quirks.companion, (gx - place[:, 0]) / 0.2, (gy - place[:, 1]) / 0.2)
        image = _paste(image, (0.5 - nearby * 0.2 * SIZE / 2).clamp(0, 1), quirks.companion_colour)
    pieces = _pieces(scene, draw, gx, gy)
    over = (draw(0, 1) < scene.occlusion).float()
    for k, (cover, tint) in enumerate(pieces):
        image = _paste(image, cover * (1 - over) if k == 0 else cover, tint)
    backdrop = image
    image = _paste(image, mask, paint)
    if pieces:
        image = _paste(image, pieces[0][0] * over, pieces[0][1])
    if len(r := _rows(style, "sketch")):
        edge = (1.6 - distance[r].abs()).clamp(0, 1)
        lines = 0.8 * mask[r] * (1.2 - 4 * (second[r] - 0.5).abs()).clamp(0, 1)
        lines = lines * (surface[r] > 0)[:, None, None]
        ink = torch.maximum(torch.maximum(edge, lines), 0.22 * mask[r])
        image[r] = _paste(0.93 + 0.05 * (backdrop[r] - 0.5), ink, 0.85 * base[r])
    image = (image - 0.5) * draw(*scene.gain)[:, None] + 0.5 + 0.06 * draw(-1, 1)[:, None]
    if scene.warmth > 0:
        cast = torch.lerp(torch.eye(3), _WARM, scene.warmth)
        image = torch.stack([(image * row[None, :, None, None]).sum(1) for row in cast], 1)
    image = _restyle(image, style, draw, draw(*scene.noise))
    return (image * 255).round().to(torch.uint8), mask
