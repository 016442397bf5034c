"""What a run trains on, which sets it scores, and by which classifier; imports no torch.

==================== ============================== ======================================================
protocol             trained on                     scored
==================== ============================== ======================================================
few_shot             all classes of one data set    ``test``: their test images
base_to_new          the base half of the classes   ``base`` and ``new``, each with its own class names only
cross_dataset        the source data set            the source, then other data sets, all their classes
domain_generalization the source data set           the source, then shifted images of its classes
==================== ============================== ======================================================

A method says by `Transfer` what it can tell of classes it was not trained on; `choose_classifier` decides.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.errors import UserError, did_you_mean, one_of

PROTOCOLS = ("few_shot", "base_to_new", "cross_dataset", "domain_generalization")
_TRANSFERS = ("cross_dataset", "domain_generalization")
_FROM_SOURCE = ("on_bad_image", "num_workers")


def add_target_nodes(cfg: DictConfig) -> DictConfig:
    """Return the configuration with ``protocol.sets``: the data node of each target by name, if there are targets.

    Paths, shots and seed of a target are the run's own; how broken images are met is the source's.

    Raises:
        UserError: If the protocol or a target is unknown, or nothing says which the targets are.
    """
    protocol = cfg.protocol
    one_of("protocol.name", protocol.name, PROTOCOLS)
    if protocol.name not in _TRANSFERS:
        return cfg
    source, name = str(cfg.data.name), protocol.name
    if str(protocol.source) != source:
        raise UserError(f"protocol.source={protocol.source} and data={source} differ; give one of them.")
    targets = protocol.targets if protocol.targets is not None else protocol.known_targets.get(source)
    if not targets:
        known = ", ".join(protocol.known_targets)
        raise UserError(
            f"protocol={name}: which are the targets of {source}? They are known for {known}; "
            "else give protocol.targets=[…]."
        )
    if len(set(targets)) < len(targets) or source in targets:
        raise UserError(f"protocol.targets={list(targets)} must differ from each other and from {source}.")
    given = {key: cfg.data[key] for key in _FROM_SOURCE if key in cfg.data}
    whole = copy.deepcopy(cfg)
    OmegaConf.set_struct(whole, False)
    whole.protocol.targets = list(targets)
    whole.protocol.sets = {target: OmegaConf.merge(_data_node(str(target)), given) for target in targets}
    return whole


def scored_sets(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the data node of each scored set by its name, the one that is trained on first.

    Args:
        config: Resolved configuration.

    Raises:
        UserError: If the data node contradicts the protocol.
    """
    data, protocol = dict(config["data"]), config["protocol"]
    if protocol["name"] == "few_shot":
        return {"test": data}
    if data.get("subset", "all") != "all":
        raise UserError(
            f"data.subset={data['subset']}: protocol={protocol['name']} chooses the classes itself; leave it out."
        )
    if protocol["name"] == "base_to_new":
        return {"base": {**data, "subset": "base"}, "new": {**data, "subset": "new"}}
    return {data["name"]: data, **protocol["sets"]}


def _data_node(name: str) -> DictConfig:
    if GlobalHydra.instance().is_initialized():
        return _composed(name)
    with initialize_config_dir(str(CONF_DIR), **BASE):
        return _composed(name)


@lru_cache(maxsize=64)
def _composed(name: str) -> DictConfig:
    """Return a data node with its interpolations; they resolve where it is put."""
    options = GlobalHydra.instance().config_loader().get_group_options("data")
    if name not in options:
        raise UserError(
            f"protocol.targets: data={name} does not exist{did_you_mean(name, options)}. "
            f"Choose from: {', '.join(sorted(options))}."
        )
    node: DictConfig = compose("config", overrides=[f"data={name}"]).data
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    if missing := [str(key) for key, value in plain.items() if value == "???"]:
        raise UserError(
            f"protocol.targets: data={name} does not say its {', '.join(missing)}. Give the set a YAML of its own, "
            "my_conf/data/<name>.yaml, and --config-dir my_conf."
        )
    return OmegaConf.create(plain)
