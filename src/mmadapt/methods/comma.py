"""COMMA (arXiv 2401.00268): image prompts generated from both towers' prompts, text tokens kept close to CLIP's."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.clip.prompts import PromptSet
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError, one_of
from mmadapt.methods.base import Batch
from mmadapt.methods.context_base import PROMPT_STD, PromptRecipe
from mmadapt.methods.parts.comma_generators import AttentionGenerator, PairGenerator
from mmadapt.methods.parts.comma_teacher import KdPositions, Teacher, hand_written
from mmadapt.methods.prompt_base import DeepPromptMethod

Mode = Literal["in_graph", "released", "symmetric"]
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
        teacher: CLIP's own tokens; None with ``kd_weight=0``.
    """

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
            mode: How prompts are generated, see above.
            depth: Number J of prompted layers, the first included.
            n_ctx: Vectors per layer, in each tower.
            ctx_init: Words before the name that T₀ starts from; None, or more than four vectors: N(0, 0.02²).
            kd_weight: Weight w of the distance to CLIP's tokens; 0 leaves it out.
            kd_positions: Which token positions are compared. ``valid``: those up to EOT in both prompts.
                ``eos``: EOT with EOT, wherever they stand. ``all``: all positions of the context, as
                released, most of which are padding behind EOT; needs the full text path. None: ``all`` for
                ``mode=released``, else ``valid``.
            kd_layers: Number S of last text blocks compared (released: 1; its code for more runs one block S times).
            kd_template: Hand-written prompt of the teacher with ``{}``; None is the data set's first template.
            collapse_remedy: At the start all n image prompts of a generated layer are equal, because the
                attention is uniform. ``residual`` adds Vₗ to Vₗ₊₁; ``learned`` adds a free prompt per layer;
                ``none`` leaves it as published. For the generators of ``in_graph`` and ``released``.

        Raises:
            UserError: If a tower takes no prompts or a value makes no sense.
        """
        one_of("method.mode", mode, get_args(Mode))
        kd_positions = kd_positions or ("all" if mode == "released" else "valid")
        one_of("method.kd_positions", kd_positions, get_args(KdPositions))
        one_of("method.collapse_remedy", collapse_remedy, get_args(Remedy))
        generated = max(depth - 1, 0)
        shape = {"depth": depth, "n_ctx": n_ctx, "free_layers": 0 if mode == "symmetric" else generated}
        super().__init__(clip, classes, ctx_init=ctx_init, text_features=text_features, **shape, **recipe)
        blocks = self.towers.text.layers
        if kd_weight < 0 or not 1 <= kd_layers <= blocks:
            raise UserError(
                f"method.kd_weight={kd_weight}, kd_layers={kd_layers}: need kd_weight ≥ 0 and kd_layers "
                f"between 1 and the {blocks} blocks of the text tower."
            )
        self.mode, self.collapse_remedy = mode, collapse_remedy
        self.kd_weight, self.kd_positions = kd_weight, kd_positions
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
        self.teacher: Teacher | None = None
        if kd_weight:
            plain = hand_written(clip, classes.names, kd_template or classes.templates[0])
            self.teacher = Teacher(self.towers, self.layout, plain, kd_positions, kd_layers)

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
        if self.teacher is None:
            return super().loss(batch)
        prompts = self.prompts()
        text = self.towers.encode_text(self.layout, prompts, taps=self.teacher.layers, path=self.teacher.path)
        features = self.towers.encode_image(inputs, prompts) if inputs.ndim == 4 else inputs
        logits = self._cosines(features, F.normalize(text.features, dim=-1))
        return F.cross_entropy(logits, labels) + self.kd_weight * self.teacher.distance(text.taps)

    def distance(self) -> Tensor:
        """Return the mean of 1 − cosine between learned and hand-written tokens, a scalar in [0, 2].

        Raises:
            UserError: If the method was built with ``kd_weight=0`` and has no teacher.
        """
        if self.teacher is None:
            raise UserError("method.kd_weight=0 leaves out the teacher; give it a positive weight.")
        layers, path = self.teacher.layers, self.teacher.path
        text = self.towers.encode_text(self.layout, self.prompts(), taps=layers, path=path)
        return self.teacher.distance(text.taps)
