"""Small runs on synthetic features, trained alone by Lightning or in a stack."""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from types import SimpleNamespace

import lightning
import torch
from torch.nn import functional as F

from mmadapt.cost import Clock
from mmadapt.data.base import ClassSet
from mmadapt.data.resident import ResidentData
from mmadapt.experiment import Prepared, fit
from mmadapt.features import FeatureSet
from mmadapt.stack.lane import Run

D, C = 24, 5
SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-3)
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning.*")


class StubClip(torch.nn.Module):
    """What a feature-level method needs of a backbone."""

    dim = D

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.tensor(3.0), requires_grad=False)

    @property
    def dtype(self):
        return self.logit_scale.dtype


def texts():
    return F.normalize(torch.randn(C, D, generator=torch.Generator().manual_seed(1)), dim=-1)


def features(count, views, seed):
    """Raw features around the class texts; labels in turn."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % C
    noise = torch.randn(views, count, D, generator=generator)
    return FeatureSet(4 * (texts()[labels] + 0.7 * noise), labels)


VAL = 40


def build(
    cls,
    clip,
    *,
    seed=1,
    shots=2,
    lr=0.05,
    epochs=3,
    batch=4,
    views=3,
    data_seed=None,
    optimizer=SGD,
    **options,
):
    """Build one run as an experiment does: weights under its own seed, then `adapt`."""
    torch.manual_seed(seed)
    recipe = {"optimizer": partial(optimizer, lr=lr), "epochs": epochs, "batch_size": batch}
    method = cls(clip, ClassSet(tuple("abcde")), text_features=texts(), **recipe, **options)
    data = ResidentData(
        SimpleNamespace(need_shots=lambda: None), None, method.view_spec, batch_size=batch, seed=seed,
        validate=method.selection == "best_val", device=torch.device("cpu"),
    )  # fmt: skip
    data.support = features(shots * C, views, seed if data_seed is None else data_seed)
    data.val = features(VAL, 1, 99)
    method.adapt(data.support, data.val)
    return Run(method, data, epochs)


def alone(run):
    """Train a run by Lightning."""
    trainer = lightning.Trainer(
        max_epochs=run.epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    return fit(Prepared({}, None, run.method, run.data, {}, {}, trainer, None, Clock(), time.time()))


def logits(run):
    """Logits of val, after training."""
    with torch.no_grad():
        return run.method.eval()(run.data.val.image_features[0])
