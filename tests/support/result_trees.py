"""Fabricate folders of finished and failed runs, and read tables back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmadapt.results import FAILURE_FILE, Result, RunKey, Score, write_json

if TYPE_CHECKING:
    from pathlib import Path


def folder(root: Path, key: RunKey) -> Path:
    return (
        root
        / key.tag
        / key.protocol
        / key.clip
        / key.data
        / key.method
        / f"{key.shots}shot"
        / f"seed{key.seed}"
    )


def key(
    method="coop", data="dtd", shots=1, seed=1, tag="main", protocol="few_shot", clip="vit_b16"
) -> RunKey:
    return RunKey(tag, protocol, clip, data, method, shots, seed)


def score(top1: float, total: int = 100, **metrics: float) -> Score:
    return Score(
        **{"top1": top1, "top1_macro": top1, "top5": 1.0, "nll": 1.0, "ece": 0.1, **metrics},
        correct=0,
        total=total,
        classes=4,
    )


def add(
    root: Path,
    top1: float = 0.5,
    *,
    scores: dict[str, Score] | None = None,
    config: dict[str, Any] | None = None,
    rule: str = "last",
    tuned: dict[str, Any] | None = None,
    cost: dict[str, float] | None = None,
    hardware: str = "",
    dirty: bool = False,
    version: int = 1,
    **identity: Any,
) -> Path:
    """Write one finished run and return its folder."""
    run = key(**identity)
    Result(
        key=run,
        scores=scores or {"test": score(top1)},
        selection={"rule": rule, **({"tuned": tuned} if tuned else {})},
        data={},
        cost=cost or {},
        fingerprint=f"{run}",
        config={
            "seed": run.seed,
            "data": {"split_seed": run.seed},
            "method": {"lr": 0.002},
            **(config or {}),
        },
        provenance={"git": {"dirty": dirty}, **({"hardware": hardware} if hardware else {})},
        protocol=version,
    ).write(folder(root, run))
    return folder(root, run)


def fail(root: Path, error: str, **identity: Any) -> Path:
    """Write the note of one failed run and return its folder."""
    run = key(**identity)
    path = folder(root, run)
    write_json(path / FAILURE_FILE, {"error": error, "config": {"tag": run.tag}})
    return path


def rows(markdown: str, table: int = 0) -> dict[str, list[str]]:
    """Return the cells of one Markdown table by row name."""
    blocks = [block for block in markdown.split("\n\n") if block.startswith("|")]
    parsed = [[part.strip() for part in line.strip("|").split("|")] for line in blocks[table].splitlines()]
    return {row[0]: row[1:] for row in parsed}


def captions(markdown: str) -> list[str]:
    return [line for line in markdown.splitlines() if " accuracy (" in line and not line.startswith("|")]
