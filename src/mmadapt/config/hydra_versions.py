"""What mmadapt needs of Hydra 1.3 beside what it offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra._internal.config_loader_impl import get_overrides_dirname
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from mmadapt.config.paths import is_choice

BASE = {"version_base": "1.3"}
"""Keywords of ``hydra.main`` and ``hydra.initialize_config_dir``."""


def admit_plugins() -> None:
    """Let Hydra build plugins from this package; may be called again.

    It builds them from the namespace ``hydra_plugins`` alone, which every Hydra application of an environment imports
    at its start.
    """
    plugins: Any = Plugins.instance()
    admits = plugins.is_in_toplevel_plugins_module
    plugins.is_in_toplevel_plugins_module = lambda name: name.startswith("mmadapt.") or admits(name)


def share_store() -> None:
    """Let Hydra's copies of its repository share the store of structured configs, which nobody changes while it runs.

    Hydra copies the repository for each composition and for each group that ``--help`` lists, and with it the
    schemas of every plugin that is installed: half of the time of the help.
    """
    store: Any = ConfigStore.instance()
    store.__deepcopy__ = lambda _: store


def list_choices() -> None:
    """Leave what is no choice out of Hydra's lists: the help, its errors, ``data=glob(*)``, shell completion.

    What a configuration names still loads. May be called again.
    """
    repository: Any = ConfigRepository
    every = repository.get_group_options
    if every.__module__ == __name__:
        return

    def get_group_options(*args: Any, **kwargs: Any) -> list[str]:
        return [name for name in every(*args, **kwargs) if is_choice(name)]

    repository.get_group_options = get_group_options


def note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Write the overrides of a job where Hydra does."""
    style = config.hydra.job.config.override_dirname
    config.hydra.overrides.task = [override.input_line for override in overrides]
    config.hydra.job.override_dirname = get_overrides_dirname(
        overrides=list(overrides),
        kv_sep=style.kv_sep,
        item_sep=style.item_sep,
        exclude_keys=style.exclude_keys,
    )
