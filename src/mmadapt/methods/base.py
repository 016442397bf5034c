"""A method is a LightningModule that adapts a frozen CLIP: any Trainer fits, validates, tests and predicts with it."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import ClassVar, Self, Unpack

import torch
from torch import Tensor
from torch.nn import functional as F

from mmadapt.clip import ClipBackbone
from mmadapt.data.base import ClassSet
from mmadapt.features.encoder import FeatureSet
from mmadapt.methods.parts.frozen_clip import BesideFrozenClip, class_text_features, shots_of
from mmadapt.methods.parts.recipe import Recipe, TrainedByRecipe
from mmadapt.methods.transfer import Transfer
from mmadapt.metrics import Scorer

Batch = tuple[Tensor, Tensor]
"""Images (B, 3, H, W) or raw image features (B, D), and their labels (B,)."""
METRICS = {"val": ("top1", "top1_macro", "nll", "ece"), "test": ("top1", "top1_macro", "top5", "nll", "ece")}


class Method(BesideFrozenClip, TrainedByRecipe):
    """A way to adapt CLIP to a few shots. A method writes `logits`, and what it needs of the other hooks.

    Order in a fit: `adapt` with the shots, `training_step` over the epochs, `search` on val. None of them ever
    sees a test image.

    Attributes:
        clip: The frozen backbone.
        classes: Names and templates of the classes.
        text_features: One unit text feature per class, (C, D).
        tuned: Hyper-parameters chosen on val, stored with the result.
        uses_shots: Whether the method looks at training or validation images at all.
        transfer: What the trained method can tell of other classes, see `mmadapt.methods.transfer`.
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
        **recipe: Unpack[Recipe],
    ) -> None:
        """Bind the frozen backbone and the C classes.

        Args:
            clip: The frozen backbone.
            classes: Names and templates of the C classes.
            text_features: Their unit text features (C, D), if encoded before; methods that learn them ignore these.
            recipe: See `Recipe`, also for what is refused.
        """
        super().__init__(**recipe)
        self.clip, self.classes = clip, classes
        self.tuned: dict[str, float] = {}
        self.scorer = Scorer(len(classes))
        if text_features is None:
            text_features = class_text_features(clip, classes)
        self.register_buffer("text_features", text_features.clone(), persistent=False)

    @abstractmethod
    def logits(self, image_features: Tensor) -> Tensor:
        """Return class logits (B, C) of raw, not normalised image features (B, D)."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class logits (B, C) of images (B, 3, H, W) or of raw image features (B, D)."""
        features = self.clip.encode_image(inputs) if inputs.ndim == 4 else inputs
        return self.logits(features)

    def loss(self, batch: Batch) -> Tensor:
        """Return the training loss of a batch: cross-entropy unless the method says otherwise."""
        inputs, labels = batch
        return F.cross_entropy(self(inputs), labels)

    def adapt(self, support: FeatureSet, val: FeatureSet) -> None:
        """Use the shots before training: build a cache, solve a closed form. Same order on every rank."""

    def search(self, val: FeatureSet) -> None:
        """Choose hyper-parameters on the validation images after training; note them in `tuned`."""

    def for_classes(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return the method with a classifier of C' other classes, text features (C', D); parameters are shared."""
        twin = copy.copy(self)
        twin._buffers = dict(self._buffers)  # what is set below is its own
        twin._modules = dict(self._modules)
        twin.classes, twin.text_features = classes, text_features
        return twin

    def text_side(self, classes: ClassSet, text_features: Tensor) -> Self:
        """Return what is left for other classes of a method with ``transfer="text_only"``; see `for_classes`."""
        raise NotImplementedError(f"{type(self).__name__} has no text side of its own.")

    def setup(self, stage: str) -> None:
        """Let the method see shots and val: here, since Lightning builds the optimiser before `on_fit_start`."""
        looks = type(self).adapt is not Method.adapt or type(self).search is not Method.search
        if stage == "fit" and looks and not self.image_level:
            self.to(self.trainer.strategy.root_device)
            support, self._val = shots_of(self.trainer, self.clip)
            self.adapt(support, self._val)

    def on_fit_end(self) -> None:
        """Choose hyper-parameters, with the weights that `selection` keeps."""
        if hasattr(self, "_val"):
            self.search(self._val)
            del self._val

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the loss of a batch; None if nothing is trained."""
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=1)  # the mean over batches
        return loss if loss.requires_grad else None

    def on_train_epoch_end(self) -> None:
        """Refuse a loss that is no number."""
        self.check_loss(float(self.trainer.callback_metrics["train/loss"]))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count what is right, on val and on test."""
        self.scorer.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        """Log val scores, among them ``val/top1``, by which ``selection=best_val`` chooses."""
        self._log_scores("val")

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test images."""
        self._log_scores("test")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Return class probabilities (B, C)."""
        return torch.softmax(self(batch if isinstance(batch, Tensor) else batch[0]), dim=-1)

    def _log_scores(self, stage: str) -> None:
        score = self.scorer.compute()
        self.log_dict({f"{stage}/{key}": float(getattr(score, key)) for key in METRICS[stage]})
        self.scorer.reset()
