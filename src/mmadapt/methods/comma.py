"""COMMA (arXiv 2401.00268): image prompts generated from both towers' prompts, text tokens kept close to CLIP's."""

from __future__ import annotations

import logging
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompted_towers import TextPath
from mmadapt.clip.prompts import PromptSet, plain_layout
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError, one_of
from mmadapt.methods.base import Batch
from mmadapt.methods.parts.comma_generators import AttentionGenerator, PairGenerator
from mmadapt.methods.prompt_base import PROMPT_STD, DeepPromptMethod, PromptRecipe

log = logging.getLogger(__name__)

Mode = Literal["in_graph", "released", "symmetric"]
KdPositions = Literal["valid", "all", "eos"]
Remedy = Literal["none", "residual", "learned"]


class COMMA(DeepPromptMethod):
    """``V₀ = F(T₀)``, ``Vₗ₊₁ = G(Vₗ, Tₗ)``; cross-entropy plus ``w · mean(1 − cos(token, CLIP's token))``.

    The paper's equations are computed in the graph (``mode=in_graph``). The released code (3584f31) writes
    the generated prompts through ``.data``, so that no generator is ever trained; ``mode=released`` does
    the same: generators stay at their random start and pass no gradient on. ``mode=symmetric`` generates
    the text prompts too, as the authors' later DCP does (NeurIPS 2024): one bottleneck per tower and layer
    on both prompts side by side, with a layer norm of its own; first image prompts and insertion stay
    COMMA's.

    Attributes:
        projection: F, a linear map d_t → d_v with bias.
        generators: G of each layer behind the first; their numbers are not shared.
        base: Learned part of V₁ …, for ``collapse_remedy=learned``.
        teacher_states: Unit token states of the frozen CLIP behind the last S blocks at the M compared
            positions, (S, M, d_t).
        teacher_rows: Class of each compared position, (M,).
        teacher_columns: Where it is in the learned prompt, (M,).
    """

    teacher_states: Tensor
    teacher_rows: Tensor
    teacher_columns: Tensor

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        mode: Mode = "in_graph",
        depth: int = 9,
        n_ctx: int = 2,
        ctx_init: str | None = "a photo of a",
        kd_weight: float = 1.0,
        kd_positions: KdPositions | None = None,
        kd_layers: int = 1,
        kd_template: str | None = None,
        collapse_remedy: Remedy = "none",
        text_features: Tensor | None = None,
        **recipe: Unpack[PromptRecipe],
    ) -> None:
        """Start prompts and generators, and ask the teacher once.

        Args:
            clip: The frozen backbone; its image tower must be a vision transformer.
            classes: Names and templates of the C classes.
            mode: How prompts are generated, see above.
            depth: Number J of prompted layers, the first included.
            n_ctx: Vectors per layer, in each tower.
            ctx_init: Words before the name that T₀ starts from; None, or more than four vectors: N(0, 0.02²).
            kd_weight: Weight w of the distance to CLIP's tokens; 0 leaves it out.
            kd_positions: Which token positions are compared. ``valid``: those up to EOT in both prompts.
                ``eos``: EOT with EOT, wherever they stand. ``all``: all positions of the context, as
                released, most of which are padding behind EOT; needs the full text path. None: ``all`` for
                ``mode=released``, else ``valid``.
            kd_layers: Number S of last text blocks compared (released: 1; its code for more runs one block S
                times).
            kd_template: Hand-written prompt of the teacher with ``{}``; None is the data set's first
                template.
            collapse_remedy: At the start all n image prompts of a generated layer are equal, because the
                attention is uniform. ``residual`` adds Vₗ to Vₗ₊₁; ``learned`` adds a free prompt per layer;
                ``none`` leaves it as published. For the generators of ``in_graph`` and ``released``.
            text_features: Not used.
            recipe: See `PromptRecipe`.

        Raises:
            UserError: If a tower takes no prompts or a value makes no sense.
        """
        one_of("method.mode", mode, get_args(Mode))
        kd_positions = kd_positions or ("all" if mode == "released" else "valid")
        one_of("method.kd_positions", kd_positions, get_args(KdPositions))
        one_of("method.collapse_remedy", collapse_remedy, get_args(Remedy))
        generated = max(depth - 1, 0)
        super().__init__(clip, classes, depth=depth, n_ctx=n_ctx, ctx_init=ctx_init, text_features=text_features,
                         free_layers=0 if mode == "symmetric" else generated, **recipe)  # fmt: skip
        if kd_weight < 0 or not 1 <= kd_layers <= self.towers.text.layers:
            raise UserError(f"method.kd_weight={kd_weight}, kd_layers={kd_layers}: need kd_weight ≥ 0 and kd_layers "
                            f"between 1 and the {self.towers.text.layers} blocks of the text tower.")  # fmt: skip
        self.mode, self.kd_weight, self.kd_layers = mode, kd_weight, kd_layers
        self.kd_positions = kd_positions
        self.collapse_remedy = collapse_remedy
        text_width, vision_width = self.towers.text.width, self.towers.vision_width
        self.projection = nn.Linear(text_width, vision_width)
        build = PairGenerator if mode == "symmetric" else AttentionGenerator
        self.generators = nn.ModuleList(build(text_width, vision_width) for _ in range(generated))
        self.generators.requires_grad_(mode != "released")
        with_base = collapse_remedy == "learned" and mode != "symmetric"
        self.base = nn.ParameterList(
            nn.Parameter(torch.randn(n_ctx, vision_width) * PROMPT_STD)
            for _ in range(generated if with_base else 0)
        )
        if kd_weight:
            self._ask_teacher(kd_template or classes.templates[0])

    def prompts(self) -> PromptSet:
        """Return the prompts of both towers, layer by layer."""
        text, vision = [self.ctx, *self.text_prompts], [self.projection(self.ctx)]
        for layer, generator in enumerate(self.generators):
            if self.mode == "symmetric":
                new_text, new_vision = generator(text[-1], vision[-1])
                text.append(new_text)
            elif self.mode == "released":
                new_vision = generator(text[layer].detach(), vision[-1].detach()).detach()
            else:
                new_vision = generator(text[layer], vision[-1])
            if self.collapse_remedy == "residual" and self.mode != "symmetric":
                previous = vision[-1].detach() if self.mode == "released" else vision[-1]
                new_vision = new_vision + previous
            vision.append(new_vision + self.base[layer] if len(self.base) else new_vision)
        return PromptSet(tuple(text), tuple(vision))

    def loss(self, batch: Batch) -> Tensor:
        """Return cross-entropy plus the weighted distance to CLIP's tokens."""
        inputs, labels = batch
        if not self.kd_weight:
            return super().loss(batch)
        prompts = self.prompts()
        path: TextPath | None = "full" if self.kd_positions == "all" else None
        text = self.towers.encode_text(self.layout, prompts, taps=self.kd_layers, path=path)
        features = self.towers.encode_image(inputs, prompts) if inputs.ndim == 4 else inputs
        logits = self._cosines(features, F.normalize(text.features, dim=-1))
        return F.cross_entropy(logits, labels) + self.kd_weight * self._distance(text.taps)

    def distance(self) -> Tensor:
        """Return the mean of 1 − cosine between learned and hand-written tokens, a scalar in [0, 2].

        Raises:
            UserError: If the method was built with ``kd_weight=0`` and has no teacher.
        """
        if not self.kd_weight:
            raise UserError("method.kd_weight=0 leaves out the teacher; give it a positive weight.")
        path: TextPath | None = "full" if self.kd_positions == "all" else None
        taps = self.towers.encode_text(self.layout, self.prompts(), taps=self.kd_layers, path=path).taps
        return self._distance(taps)

    def _distance(self, taps: Tensor) -> Tensor:
        states = F.normalize(taps[:, self.teacher_rows, self.teacher_columns].float(), dim=-1)
        return 1 - (states * self.teacher_states).sum(dim=-1).mean()

    @torch.no_grad()
    def _ask_teacher(self, template: str) -> None:
        if "{}" not in template:
            raise UserError(f"method.kd_template={template!r} must hold {{}} where the class name goes.")
        prompts = ClassSet(self.classes.names, (template,)).prompts()
        layout = plain_layout(self.clip, [prompt for (prompt,) in prompts])
        path: TextPath | None = None
        if self.kd_positions == "all":
            path = "full"
            log.warning("kd_positions=all compares padding behind EOT too, so training runs the text tower over all "
                        "positions; valid and eos do not need to.")  # fmt: skip
        taps = self.towers.encode_text(layout, taps=self.kd_layers, path=path).taps
        rows = torch.arange(len(layout))
        columns, own = self.layout.eot, layout.eot
        if self.kd_positions != "eos":
            shared = torch.minimum(columns, own) + 1
            counts = shared if self.kd_positions == "valid" else torch.full_like(shared, taps.shape[2])
            rows = rows.repeat_interleave(counts)
            columns = own = torch.cat([torch.arange(int(count)) for count in counts])
        states = F.normalize(taps[:, rows.to(taps.device), own.to(taps.device)].float(), dim=-1)
        for name, value in (("states", states), ("rows", rows), ("columns", columns)):
            self.register_buffer(f"teacher_{name}", value.to(taps.device), persistent=False)


def prompt_spread(prompts: PromptSet) -> list[float]:
    """Return, for each layer, how far the image prompts stand apart: max distance to their mean over its norm."""
    spreads = []
    for vision in prompts.vision:
        mean = vision.mean(dim=0, keepdim=True)
        spreads.append(float(((vision - mean).norm(dim=-1).max() / mean.norm()).detach()))
    return spreads
