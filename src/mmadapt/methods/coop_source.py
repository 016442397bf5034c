"""Text features of a finished CoOp run, for methods that build on them; the run is made first if it is missing."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from mmadapt.clip import ClipBackbone
from mmadapt.config import instantiate
from mmadapt.data.base import ClassSet
from mmadapt.errors import UserError

log = logging.getLogger(__name__)

_WEIGHTS, _CONFIG = "adapter.safetensors", "config.yaml"
_OWN = ("method", "experiment", "sweep", "overwrite")


def coop_text_features(
    clip: ClipBackbone, classes: ClassSet, coop_run: str | Path | None, run_dir: Path | None
) -> Tensor:
    """Return CoOp's unit text features (C, D).

    Args:
        clip: The backbone that CoOp was trained with.
        classes: The classes that it was trained on, in the same order.
        coop_run: Folder of the run: ``…/coop/<k>shot/seed<s>`` with its weights and configuration.
        run_dir: Folder of the asking run, ``…/<method>/<k>shot/seed<s>``: without ``coop_run`` the CoOp run of the
            same tag, protocol, backbone, data, shots and seed lies beside it. Inside the command line it is
            trained if it is not there.

    Raises:
        UserError: If there is no such run and it cannot be made here, or if it is not CoOp's.
    """
    if coop_run is not None:
        folder = Path(coop_run)
    elif run_dir is not None:
        folder = run_dir.parents[2] / "coop" / run_dir.parent.name / run_dir.name
        if not (folder / _CONFIG).is_file():
            _train(folder)
    else:
        raise UserError(
            "method.text_source=coop outside a run: give method.coop_run=<folder of a finished CoOp run>, or "
            "CoOp's features as text_features with text_source=template."
        )
    if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise UserError(
            f"method.text_source=coop: {folder} holds no finished CoOp run. Run python -m mmadapt method=coop with the "
            "same data, clip, protocol, shots, seed and tag first."
        )
    node = OmegaConf.to_container(OmegaConf.load(folder / _CONFIG))
    assert isinstance(node, dict)
    if not str(node["method"]["_target_"]).endswith("CoOp"):
        raise UserError(f"method.coop_run={folder} is a run of {node['method']['_target_']}, not of CoOp.")
    if (known := node["clip"].get("arch")) != clip.arch:
        raise UserError(f"method.coop_run={folder} was trained with {known}, this run has {clip.arch}.")
    coop = instantiate(node["method"], "method", clip=clip, classes=classes)
    coop.load_state_dict(load_file(folder / _WEIGHTS))
    with torch.no_grad():
        features: Tensor = coop.to(clip.device).class_features()
    return features


def _train(folder: Path) -> None:
    """Make the CoOp run with this command's overrides, less those of the asking method."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from mmadapt.runner import execute

    if not (HydraConfig.initialized() and GlobalHydra.instance().is_initialized()):
        return
    kept = [
        o for o in HydraConfig.get().overrides.task if o.lstrip("+~").split("=")[0].split(".")[0] not in _OWN
    ]
    log.info("The CoOp run %s is missing and is made first.", folder)
    overrides = [*kept, "method=coop"]
    choices = compose("config", overrides=overrides, return_hydra_config=True).hydra.runtime.choices
    execute(compose("config", overrides=overrides), choices, folder, overrides)
