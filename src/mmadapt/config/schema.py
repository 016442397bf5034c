"""The configuration: where it lies, what it may hold, and how objects are built from it.

Imports neither torch nor Lightning, so that ``--help`` and ``--cfg job`` stay quick.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from mmadapt.config.identity import IRRELEVANT
from mmadapt.config.targets import add_target_nodes, scored_sets
from mmadapt.config.trainer_options import check as check_trainer
from mmadapt.errors import UserError, did_you_mean

TOP_LEVEL = ("clip", "data", "method", "protocol", "trainer", "callbacks", "shots", "seed", *IRRELEVANT)
_SCALARS = ("shots", "seed", "tag", "overwrite", "save_predictions", "save_confusion", "checkpoint_seconds")


def register_resolvers() -> None:
    """Make ``${basename:…}``, ``${parent:…}``, ``${absolute:…}``, ``${checked:…}`` and those of tables available.

    ``${from:${shots},{1:50,2:100,8:200}}`` is the value at the largest key that is not above the number: 50 with
    one shot, 100 from two on, 200 from eight on. ``${by_data:${data},{dtd: 2, else: 1}}`` is the value for the
    published data set of that name; a folder of one's own is none, whatever its name. May be called again.
    """
    resolvers: dict[str, Any] = {
        "basename": lambda path: Path(str(path)).expanduser().resolve().name,
        "parent": lambda path: str(Path(str(path)).parent),
        "absolute": lambda path: str(Path(str(path)).expanduser().resolve()),
        "checked": check_scalar,
        "from": lambda number, table: table[max((key for key in table if key <= number), default=min(table))],
        "by_data": _by_data,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def _by_data(data: DictConfig, table: Mapping[str, Any]) -> Any:
    value = table.get(data.name if "folders" in data else "else", table["else"])
    return ListConfig(value) if isinstance(value, list) else value  # --resolve knows no plain list


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain, resolved containers, after checking keys and scalars.

    Raises:
        UserError: If a top-level key is unknown, a mandatory value is missing, a scalar makes no sense or the trainer
            is given what has no place here.
    """
    for key in cfg:
        if key not in TOP_LEVEL:
            raise UserError(
                f"{key!r} is not a key of the configuration{did_you_mean(str(key), TOP_LEVEL)}. "
                f"Accepted: {', '.join(TOP_LEVEL)}."
            )
    cfg = add_target_nodes(cfg)
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{', '.join(missing)} must be given: add {missing[0]}=… to the command.")
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    for key in _SCALARS:
        check_scalar(key, config[key])
    found = {str(key): value for key, value in config.items()}
    check_trainer(found["trainer"])
    scored_sets(found)
    return found


def check_scalar(key: str, value: Any) -> Any:
    """Return a top-level value as it is if it makes sense; Hydra asks before it makes a folder of that name.

    Raises:
        UserError: Saying what the key may hold.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good, wanted = {
        "shots": (whole and value >= 1, "a whole number of at least 1, the training images per class"),
        "seed": (whole and value >= 0, "a whole number of at least 0"),
        **dict.fromkeys(
            ("overwrite", "save_predictions", "save_confusion"), (isinstance(value, bool), "true or false")
        ),
        "checkpoint_seconds": (value is None or (number and value >= 0), "a number of at least 0, or null"),
        "tag": (
            isinstance(value, str)
            and all(re.fullmatch(r"[\w.-]*\w[\w.-]*", part) for part in value.split("/")),
            "a name of letters, digits, - and _: it becomes a folder",
        ),
    }[key]
    if not good:
        raise UserError(f"{key}={value!r} must be {wanted}.")
    return value
