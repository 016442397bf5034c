"""Objects from the configuration: what may be built, with which keys, and where moved classes are now."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class, get_method
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import OmegaConf

from mmadapt.errors import UserError, did_you_mean

_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_TARGETS = ("mmadapt.", "torch.optim.", "lightning.")
_MOVED = {
    "mmadapt.methods.tip_adapter_f.": "mmadapt.methods.tip_adapter.",
    "mmadapt.optim.": "mmadapt.methods.parts.schedules.",
    "mmadapt.data.fgvc.": "mmadapt.data.published.split_file.",
    "mmadapt.data.imagenet.": "mmadapt.data.published.imagenet.",
    "mmadapt.data.imagenet_shift.": "mmadapt.data.published.imagenet.",
    "mmadapt.data.published.fgvc.": "mmadapt.data.published.split_file.",
    "mmadapt.data.published.imagenet_shift.": "mmadapt.data.published.imagenet.",
    "mmadapt.data.split_file.": "mmadapt.data.published.split_file.",
}
"""Where classes of earlier layouts are now: stored runs and users' own YAMLs name them."""


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
    build = hydra_instantiate(partial, _convert_="all")
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
