"""The configuration: where it lies, what it may hold, and how objects are built from it.

Imports neither torch nor Lightning, so that ``--help`` and ``--cfg job`` stay quick.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_class, get_method
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf

from mmadapt.errors import UserError, did_you_mean
from mmadapt.hydra_line import register_resolver, whitelist
from mmadapt.identity import IRRELEVANT
from mmadapt.places import CONF_DIR as CONF_DIR
from mmadapt.protocols import add_target_nodes, scored_sets

TOP_LEVEL = ("clip", "data", "method", "protocol", "trainer", "shots", "seed", *IRRELEVANT)
_SCALARS = ("shots", "seed", "tag", "overwrite", "save_predictions", "save_confusion", "checkpoint_seconds")
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_TARGETS = ("mmadapt.", "torch.optim.", "lightning.")
_MOVED = {"mmadapt.methods.tip_adapter_f.": "mmadapt.methods.tip_adapter."}
"""Where classes of earlier layouts are now: stored runs and users' own YAMLs name them."""


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
        register_resolver(name, resolver)


def _by_data(data: DictConfig, table: Mapping[str, Any]) -> Any:
    value = table.get(data.name if "folders" in data else "else", table["else"])
    return ListConfig(value) if isinstance(value, list) else value  # --resolve knows no plain list


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration as plain, resolved containers, after checking keys and scalars.

    Raises:
        UserError: If a top-level key is unknown, a mandatory value is missing or a scalar makes no sense.
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


def instantiate(node: Mapping[str, Any], where: str, **live: Any) -> Any:
    """Build the object that ``_target_`` names, passing live objects by keyword.

    Args:
        node: A part of the configuration with ``_target_``.
        where: Its place in the configuration (``method``), for messages.
        live: Objects that no YAML can hold.

    Raises:
        UserError: If the target may not be built or a key is no parameter of it.
    """
    node = _up_to_date(node)
    check_keys(node, where, set(live))
    # Always as a partial: called here, so that the target's own errors arrive as they are.
    partial = OmegaConf.create({**node, "_partial_": True})
    build = hydra_instantiate(partial, _convert_="all", **whitelist(_allowed()))
    return build(**live)


def check_keys(node: Mapping[str, Any], where: str, live: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    """Compare a node's keys, and those of nodes inside it, with the signature of its target."""
    for key, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_keys(value, f"{where}.{key}")
    if "_target_" not in node:
        raise UserError(f"{where} has no _target_: it must name the class to build.")
    target = str(node["_target_"])
    allowed = _allowed()
    if not target.startswith(allowed):
        raise UserError(
            f"{where}._target_={target} may not be built. Allowed: {', '.join(allowed)}…; "
            "add a prefix with MMADAPT_TARGETS=package."
        )
    accepted = parameters(locate(target, where))
    if accepted is None:
        return
    for key in node.keys() - _HYDRA_KEYS:
        if key not in accepted or key in live:
            names = sorted(accepted - live)
            raise UserError(
                f"{where}.{key} is not a parameter of {target.rsplit('.', 1)[-1]}{did_you_mean(str(key), names)}. "
                f"Accepted: {', '.join(names)}."
            )


def locate(target: str, where: str) -> Any:
    """Return the class or function that a ``_target_`` names.

    Raises:
        UserError: If it cannot be imported.
    """
    target = _current_place(target)
    try:
        return get_class(target) if target.rsplit(".", 1)[-1][:1].isupper() else get_method(target)
    except Exception as error:
        raise UserError(f"{where}._target_={target} cannot be imported: {error}") from error


def _current_place(target: str) -> str:
    for old, new in _MOVED.items():
        if target.startswith(old):
            return new + target.removeprefix(old)
    return target


def _up_to_date(node: Any) -> Any:
    """Return a node with every ``_target_`` in it at its present place."""
    if not isinstance(node, Mapping):
        return node
    return {
        key: _current_place(value) if key == "_target_" and isinstance(value, str) else _up_to_date(value)
        for key, value in node.items()
    }


def _allowed() -> tuple[str, ...]:
    return _TARGETS + tuple(filter(None, os.environ.get("MMADAPT_TARGETS", "").split(",")))


def parameters(target: Any) -> set[str] | None:
    """Return the keyword parameters of a class or function; None if it takes anything.

    ``**kwargs`` of an ``__init__`` stand for the keys of their TypedDict, or for the parameters of the next
    class that has an ``__init__`` of its own.
    """
    functions = (
        [vars(c)["__init__"] for c in target.__mro__ if "__init__" in vars(c)]
        if inspect.isclass(target)
        else [target]
    )
    names: set[str] = set()
    for function in functions:
        signature = inspect.signature(function)
        kinds = {p.kind for p in signature.parameters.values()}
        names |= {
            n for n, p in signature.parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        }
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return names - {"self"}
    return None
