"""What every method shares: the frozen backbone, training on cached features, selection on val, scoring."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError
from mmadapt.features import FeatureSet, Views, average_prompts
from mmadapt.methods.recipe import Selection, check_recipe
from mmadapt.metrics import Scorer
from mmadapt.optim import Cosine
from mmadapt.protocols import Transfer

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W) or raw image features (B, D), and their labels (B,)."""


class Method(LightningModule, ABC):
    """A way to adapt CLIP to a few shots. A method writes `logits`, and what it needs of the other hooks.

    Order of the hooks in a run: `adapt` with the shots, training epochs over `loss`, `search` on val, the
    final score. None of them ever sees a test image.

    Attributes:
        clip: The frozen backbone.
        classes: Names and templates of the classes.
        text_features: One unit text feature per class, (C, D).
        run_dir: Folder of the run, ``…/<method>/<k>shot/seed<s>``; None outside of one.
        tuned: Hyper-parameters chosen on val, stored with the result.
        uses_shots: Whether the method looks at training or validation images at all.
        transfer: What the trained method can tell of classes it was not trained on; see
            `mmadapt.protocols.Transfer`.
        image_level: Whether it changes the image tower. Then `loss` and `forward` get images (B, 3, H, W),
            and there are no features for `adapt` and `search`.
    """

    uses_shots: ClassVar[bool] = True
    image_level: ClassVar[bool] = False
    transfer: Transfer = "names"
    text_features: Tensor

    def __init__(
        self,
        clip: ClipBackbone,
        classes: ClassSet,
        *,
        text_features: Tensor | None = None,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] = partial(torch.optim.AdamW, lr=1e-3),
        scheduler: Callable[[Optimizer, int], LRScheduler] | None = Cosine,
        schedule_by: Literal["epoch", "step"] = "step",
        epochs: int = 0,
        batch_size: int = 256,
        selection: Selection = "last",
        views: int = 0,
        crop_scale: tuple[float, float] = (0.08, 1.0),
    ) -> None:
        """Bind the backbone and the recipe (see `Recipe`).

        Args:
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
            text_features: Unit text features (C, D) if they were encoded before; else encoded here.
            optimizer: See `Recipe`, also for the others.
            scheduler: See `Recipe`.
            schedule_by: See `Recipe`.
            epochs: See `Recipe`.
            batch_size: See `Recipe`.
            selection: See `Recipe`.
            views: See `Recipe`.
            crop_scale: See `Recipe`.

        Raises:
            UserError: If a value of the recipe makes no sense.
        """
        super().__init__()
        check_recipe(epochs, batch_size, selection, schedule_by, views, crop_scale)
        self.automatic_optimization = False  # one Lightning step is one epoch of resident features
        self.strict_loading = False
        self.clip, self.classes = clip, classes
        self.optimizer, self.scheduler, self.schedule_by = optimizer, scheduler, schedule_by
        self.epochs, self.batch_size, self.selection = epochs, batch_size, selection
        self.view_spec = Views(views, (float(crop_scale[0]), float(crop_scale[1])))
        self.tuned: dict[str, float] = {}
        self.run_dir: Path | None = None
        self.scorer = Scorer(len(classes))
        if text_features is None:
            text_features = class_text_features(clip, classes)
        self.register_buffer("text_features", text_features.clone(), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class logits (B, C) of images (B, 3, H, W) or of raw image features (B, D)."""
        features = self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs
        return self.logits(features)

    @abstractmethod
    def logits(self, image_features: Tensor) -> Tensor:
        """Return class logits (B, C) of raw, not normalised image features (B, D)."""

    def loss(self, batch: Batch) -> Tensor:
        """Return the training loss of a batch: cross-entropy unless the method says otherwise."""
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Use the shots before training: build a cache, solve a closed form. Same order on every rank."""

    def search(self, val: FeatureSet) -> None:
        """Choose hyper-parameters on the validation images after training; note them in `tuned`."""

    def for_classes(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return the trained method with a classifier of other classes; it shares all parameters.

        Args:
            classes: Names and templates of the C' classes.
            text_features: Their unit text features (C', D).
        """
        twin = copy.copy(self)
        twin._buffers, twin._modules = (
            dict(self._buffers),
            dict(self._modules),
        )  # what is set below is its own
        twin.classes, twin.text_features = classes, text_features
        return twin

    def text_side(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return what is left for other classes of a method with ``transfer="text_only"``; see `for_classes`."""
        raise NotImplementedError(f"{type(self).__name__} has no text side of its own.")

    def is_enough(self, top1: float) -> bool:
        """Say, after an epoch's top-1 on val, whether to stop training; asked with ``best_val`` alone."""
        return False

    def trainable_parameters(self) -> list[torch.nn.Parameter]:
        """Return the method's own parameters, in a fixed order."""
        return [p for p in self.parameters() if p.requires_grad]

    # --- Lightning -------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        """Build the optimiser over the method's own parameters; `training_step` steps the scheduler itself."""
        parameters = self.trainable_parameters()
        if not parameters:
            raise UserError(f"{type(self).__name__} has nothing to train; use method.epochs=0.")
        return self.optimizer(parameters)

    def on_train_start(self) -> None:
        """Build the scheduler, now that the number of epochs and batches is known."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        total = self.trainer.max_epochs or 0
        if self.schedule_by == "step":
            total *= self.trainer.train_dataloader.steps_per_epoch  # type: ignore[union-attr]
        self._schedule = self.scheduler(optimizer, total) if self.scheduler else None  # type: ignore[arg-type]
        # Gradients through float16 towers underflow without a scale; a disabled scaler does nothing.
        half = self.clip.dtype == torch.float16 or self.trainer.precision == "16-mixed"
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=half)

    def training_step(self, epoch: Iterable[tuple[Batch, float]], batch_idx: int) -> None:
        """Run one epoch of resident batches; Lightning's own cost is then paid per epoch, not per step."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        losses = []
        for batch, weight in epoch:
            loss = weight * self.loss(batch)
            optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
            scaled = self._scaler.scale(loss)
            self.trainer.strategy.pre_backward(
                scaled
            )  # several processes: average the gradients of this step
            scaled.backward()
            self._scaler.step(optimizer)  # type: ignore[arg-type]
            self._scaler.update()
            losses.append(loss.detach())
            if self._schedule is not None and self.schedule_by == "step":
                self._schedule.step()
        if self._schedule is not None and self.schedule_by == "epoch":
            self._schedule.step()
        mean = torch.stack(losses).mean()
        self.check_loss(float(mean), self.current_epoch + 1)
        self.log("train/loss", mean, sync_dist=self.trainer.world_size > 1)

    def check_loss(self, mean: float, epoch: int) -> None:
        """Refuse a mean training loss that is no number.

        Raises:
            UserError: Naming the epoch, counted from 1.
        """
        if not math.isfinite(mean):
            raise UserError(
                f"The loss of {type(self).__name__} became {mean} in epoch {epoch}. Lower method.optimizer.lr."
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what is right on val."""
        self.scorer.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Log val scores, among them ``val/top1``, by which ``selection=best_val`` chooses; stop if asked to."""
        score = self.scorer.compute()
        self.log_dict(
            {f"val/{key}": float(getattr(score, key)) for key in ("top1", "top1_macro", "nll", "ece")}
        )
        self.scorer.reset()
        if not self.trainer.sanity_checking and self.is_enough(score.top1):
            self.trainer.should_stop = True

    def training_state(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the weights; a method with counters of its own adds them."""
        schedule = None if self._schedule is None else self._schedule.state_dict()
        optimizer: Optimizer = self.optimizers(use_pl_optimizer=False)  # type: ignore[assignment]
        return {
            "optimizer": optimizer.state_dict(),
            "schedule": schedule,
            "scaler": self._scaler.state_dict(),
        }

    def load_training_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `training_state` returned; `on_train_start` lies behind us."""
        self.optimizers(use_pl_optimizer=False).load_state_dict(state["optimizer"])  # type: ignore[union-attr]
        if self._schedule is not None:
            self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])

    def cpu(self) -> Self:
        """Stay on the device: Lightning would move the method, and the shared CLIP, after each fit and test."""
        return self

    # --- Weights ---------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the method's own tensors; the frozen CLIP (600 MB for ViT-B/16) is never stored."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "") + "clip."
        return {key: value for key, value in state.items() if not key.startswith(prefix)}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load the method's own tensors.

        Raises:
            UserError: If ``strict`` and a tensor of the method is missing or unknown.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.startswith("clip.")]
        if strict and (missing or result.unexpected_keys):
            raise UserError(
                f"These weights are not of {type(self).__name__} with this configuration: "
                f"missing {missing}, unknown {result.unexpected_keys}."
            )
        return result


@torch.no_grad()
def class_text_features(clip: ClipBackbone, classes: ClassSet) -> Tensor:
    """Return one unit text feature per class, (C, D): normalise each prompt's, average, normalise."""
    prompts = classes.prompts()
    each = clip.encode_text([prompt for row in prompts for prompt in row], normalize=True)
    return average_prompts(each, prompts)


def scale_of(clip: ClipBackbone, logit_scale: float | None) -> float:
    """Return the factor of the cosine: a paper's constant if given, else the model's own exp(logit_scale)."""
    return float(clip.logit_scale.exp()) if logit_scale is None else float(logit_scale)
