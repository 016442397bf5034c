"""The embedded tiny CLIP: a stock open_clip model whose weights are small enough to ship.

Of the 49,408 rows of the token embedding, only those that occur in pre-training captions are learned and
stored.  The others are drawn from a private generator, so that every load gives the same model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from mmadapt.files import replacing

ASSETS = Path(__file__).parents[1] / "assets"
NAME = "mmadapt-tiny"
CONFIG = ASSETS / f"{NAME}.json"
WEIGHTS = ASSETS / f"{NAME}.safetensors"
_TABLE = "token_embedding.weight"
_ROWS = "token_rows"
_FILL_SEED, _FILL_STD = 0, 0.02


def tiny_config() -> dict[str, Any]:
    """The open_clip model configuration."""
    return cast("dict[str, Any]", json.loads(CONFIG.read_text(encoding="utf-8")))


def save_tiny_state(state: dict[str, Tensor], rows: Tensor, path: Path, metadata: dict[str, str]) -> None:
    """Write half-precision weights with a compact token embedding.

    Args:
        state: State dict of the model; the token embedding holds one row per entry of `rows`.
        rows: BPE index of each row of the token embedding, int64 (n,).
        path: File to write; it is replaced at once.
        metadata: Notes to store with the weights.
    """
    tensors = {name: value.detach().half().contiguous() for name, value in state.items()}
    tensors[_ROWS] = rows.to(torch.int32)
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def load_tiny_state(path: Path = WEIGHTS) -> dict[str, Tensor]:
    """Read the weights and complete the token embedding.

    Args:
        path: A file written by `save_tiny_state`.

    Returns:
        The full state dict of the open_clip model, float32.
    """
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    rows = state.pop(_ROWS).long()
    learned = state[_TABLE].float()
    generator = torch.Generator().manual_seed(_FILL_SEED)
    table = _FILL_STD * torch.randn(
        tiny_config()["text_cfg"]["vocab_size"], learned.shape[1], generator=generator
    )
    table[rows] = learned
    state = {name: value.float() for name, value in state.items()}
    state[_TABLE] = table
    return state


def tiny_metadata(path: Path = WEIGHTS) -> dict[str, str]:
    """Recipe, steps and evaluation stored with the weights."""
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
