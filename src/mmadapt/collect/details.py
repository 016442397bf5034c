"""Reading of ``details.json``, which lies beside a result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from mmadapt.errors import UserError
from mmadapt.results import DETAILS_FILE, DETAILS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")


def read_details(folder: Path, parse: Callable[[dict[str, Any]], T]) -> dict[str, T]:
    """Return what is made of each scored set of a run; empty if the run has no details.

    Raises:
        UserError: If the file is there but is none of this layout.
    """
    path = folder / DETAILS_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] != DETAILS_SCHEMA:
            raise ValueError(f"schema {raw['schema']!r} instead of {DETAILS_SCHEMA}")
        return {str(name): parse(part) for name, part in raw["sets"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no details of a run ({error}). Delete it, or run the job again."
        ) from error
