"""Turns what Hydra refuses into a message that says what to type."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError

from mmadapt.config.paths import CONF_DIR, options
from mmadapt.config.trainer_options import OPTIONS
from mmadapt.errors import UserError, did_you_mean

_EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/submitit_local": "slurm",
    "hydra/launcher/ray": "ray",
    "hydra/sweeper/optuna": "hpo",
}
"""Options of Hydra's plugins, and ours made of them, by the extra that installs them."""


def check_choices(arguments: Sequence[str]) -> None:
    """Refuse ``method=null`` and the like before Hydra stops at them with a traceback.

    Raises:
        UserError: If a group is set to null, or several recipes are asked for at once.
    """
    for argument in arguments:
        group, _, option = argument.partition("=")
        if group == "experiment" and option.startswith("["):
            raise UserError(f"{argument}: a run follows one recipe. Choose one, and set the rest by hand.")
        if "null" in option.split(",") and (choices := options(CONF_DIR / group)):
            raise UserError(
                f"{argument} chooses nothing: leave it out, or choose from: {', '.join(choices)}."
            )


def explain(error: Exception) -> str:
    """Return the message for an error of composition; other errors speak for themselves."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if (extra := _EXTRAS.get(error.missing_cfg_file)) is not None:
            return (
                f"{group}={option} comes with an extra that is not installed: pip install 'mmadapt[{extra}]'."
            )
        # Hydra names no options for a choice inside a list, as in logger=[csv,wandbb].
        choices = error.options or options(CONF_DIR / group)
        if group and choices:
            hint = did_you_mean(option, choices)
            return f"{group}={option} does not exist{hint}. Choose from: {', '.join(choices)}."
    if (said := explain_value(error)) != str(error):
        return said
    return _unknown_key(error) or str(error)


def explain_value(error: Exception) -> str:
    """Return the message for a value that is missing or was refused while it was resolved."""
    refused = re.search(r"UserError raised while resolving interpolation: (.*)", str(error))
    if refused:
        return refused[1]
    missing = re.search(r"Missing mandatory value: (\S+)", str(error))
    if missing:
        return f"{missing[1]} must be given: add {missing[1]}=… to the command."
    return str(error)


def _unknown_key(error: Exception) -> str:
    """Name the key that the configuration does not have, by the error of OmegaConf behind Hydra's."""
    cause: Any = error.__cause__
    found = re.match(r"Could not override '(\S+)'", str(error))
    if not found or not isinstance(cause, (ConfigKeyError, ConfigAttributeError)):
        return ""
    key, node = found[1], cause.parent_node
    parent, _, leaf = key.rpartition(".")
    if key.startswith("hydra."):
        return ""
    if cause.full_key != key or not node:
        return f"{key} cannot be set: {parent} holds no keys."
    names = [str(name) for name in node if name != "hydra"]
    if parent == "trainer":
        if leaf in OPTIONS:
            return f"{key} is not among the defaults of the trainer: add it as +{key}=…"
        names = list(OPTIONS)
    target = OmegaConf.select(node, "_target_")
    owner = str(target).rsplit(".", 1)[-1] if target else (parent or "the configuration")
    accepted = ", ".join(name for name in names if not name.startswith("_"))
    return f"{key} is not a parameter of {owner}{did_you_mean(leaf, names)}. Accepted: {accepted}."
