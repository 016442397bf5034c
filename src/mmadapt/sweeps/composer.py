"""Configurations of the jobs of a sweep, with one pass of Hydra over the groups for all jobs that share them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.core.utils import setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mmadapt.config.hydra_versions import note_overrides


class Composer:
    """Composes the jobs of one sweep as Hydra's basic launcher does, several times as fast.

    Which files make up a configuration depends on the choices of groups alone (``method=coop``); values
    (``seed=2``) are set afterwards, in order. So what the groups give is kept and copied. A job with any
    other kind of override, such as ``+key``, is left to Hydra, and so is one with an error, for its message.
    """

    def __init__(self, context: HydraContext, master: DictConfig) -> None:
        """Prepare for a sweep.

        Args:
            context: Hydra's, with the loader of configurations.
            master: The configuration that Hydra composed for the sweep as a whole.
        """
        self._loader: Any = context.config_loader
        self._master = master
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._is_group = cache(lambda key: bool(self._loader.get_group_options(key)))

    def __call__(self, overrides: Sequence[str], number: int) -> DictConfig:
        """Return the configuration of a job.

        Args:
            overrides: Those of the job, without the ones for Hydra itself.
            number: Position of the job in the sweep.
        """
        setup_globals()
        config = self._quick(list(overrides))
        if config is None:
            config = self._loader.load_sweep_config(self._master, list(overrides))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        return config

    def _quick(self, lines: list[str]) -> DictConfig | None:
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(lines)
        groups = [line for line, override in zip(lines, parsed, strict=True) if self._chooses(override)]
        values = [override for override in parsed if self._sets_value(override)]
        if len(groups) + len(values) < len(parsed):
            return None
        if (base := self._bases.get(tuple(groups))) is None:
            base = self._bases[tuple(groups)] = self._loader.load_sweep_config(self._master, groups)
        config = copy.deepcopy(base)
        OmegaConf.copy_cache(from_config=self._master, to_config=config)
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return None
        note_overrides(config, parsed)
        return config

    def _chooses(self, override: Override) -> bool:
        return not override.is_hydra_override() and self._is_group(override.key_or_group)

    def _sets_value(self, override: Override) -> bool:
        plain = override.type is OverrideType.CHANGE and override.package is None
        return plain and not override.is_hydra_override() and not self._is_group(override.key_or_group)
