"""Every method of conf/method on a small CLIP."""

from __future__ import annotations

import torch
from hydra import compose, initialize_config_dir

from mmadapt.config.build import instantiate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.data.base import ClassSet
from mmadapt.methods.base import Method

register_resolvers()


METHODS = sorted(file.stem for file in (CONF_DIR / "method").glob("*.yaml"))


CLASSES = ClassSet(("red square", "blue circle", "green star"))


def build(name, clip) -> Method:
    with initialize_config_dir(str(CONF_DIR), **BASE):
        config = resolve(
            compose("config", overrides=[f"method={name}", "clip=vit_b16", "data=folder", "data.root=x"])
        )
    torch.manual_seed(0)
    if "depth" in config["method"]:
        config["method"]["depth"] = 2
    return instantiate(config["method"], "method", clip=clip, classes=CLASSES)
