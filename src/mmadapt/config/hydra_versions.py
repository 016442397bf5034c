"""What differs between the lines of Hydra that mmadapt runs on, 1.3 and 1.4."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hydra
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf

from mmadapt.config.paths import is_choice

_NEW = tuple(int(part) for part in hydra.__version__.split(".")[:2]) >= (1, 4)

BASE: dict[str, Any] = {} if _NEW else {"version_base": "1.3"}
"""Keywords of ``hydra.main`` and ``hydra.initialize_config_dir``: 1.4 has one behaviour only, and warns if asked."""


def admit_plugins() -> None:
    """Let Hydra build plugins from this package; may be called again.

    1.3 builds them from the namespace ``hydra_plugins`` alone, which every Hydra application of an environment
    imports at its start; 1.4 has lifted that.
    """
    plugins: Any = Plugins.instance()
    admits = getattr(plugins, "is_in_toplevel_plugins_module", None)
    if admits is not None:
        plugins.is_in_toplevel_plugins_module = lambda name: name.startswith("mmadapt.") or admits(name)


def share_store() -> None:
    """Let Hydra's copies of its repository share the store of structured configs, which nobody changes while it runs.

    Hydra 1.3 copies the repository for each composition and for each group that ``--help`` lists, and with it the
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


def register_resolver(name: str, resolver: Callable[..., Any]) -> None:
    """Make ``${name:…}`` available; may be called again."""
    register: Any = OmegaConf.register_resolver if _NEW else OmegaConf.register_new_resolver
    register(name, resolver, replace=True)


def whitelist(prefixes: Iterable[str]) -> dict[str, Any]:
    """Return the keyword that tells ``instantiate`` of 1.4 what may be built; 1.3 has none."""
    return {"_execution_whitelist_": [f"{prefix.rstrip('.')}.*" for prefix in prefixes]} if _NEW else {}


def note_overrides(config: DictConfig, overrides: Sequence[Override]) -> None:
    """Write the overrides of a job where Hydra does; 1.4 derives the name of a folder from them when asked for it."""
    config.hydra.overrides.task = [override.input_line for override in overrides]
    if not _NEW:
        from hydra._internal.config_loader_impl import get_overrides_dirname

        style = config.hydra.job.config.override_dirname
        config.hydra.job.override_dirname = get_overrides_dirname(
            overrides=list(overrides),
            kv_sep=style.kv_sep,
            item_sep=style.item_sep,
            exclude_keys=style.exclude_keys,
        )
