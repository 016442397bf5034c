"""Fabricate a small campaign in all four protocols, with details and names that try to be markup."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmadapt.results import DETAILS_FILE, Result, Score, write_json
from tests.support.result_trees import folder, key, score

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
METHODS = {"zero_shot": 0.0, "coop": 0.02, "maple": 0.04}
DATA = {"caltech101": 0.8, "dtd": 0.4}
SHOTS, SEEDS = (1, 4, 16), (1, 2)
TARGETS = {"imagenet_v2": 0.6, "imagenet_a": 0.3}


def put(root: Path, scores: dict[str, Score], details: bool = False, **identity: Any) -> Path:
    """Write one run with everything a real one records, and return its folder."""
    run = key(**identity)
    path = folder(root, run)
    names = ("protocol", "clip", "data", "method", "shots", "seed")
    command = " ".join(["python -m mmadapt", *(f"{name}={getattr(run, name)}" for name in names)])
    Result(
        key=run,
        scores=scores,
        selection={"rule": "best_val", "epoch": 7, "val_top1": 0.7, "tuned": {"alpha": 1.5}},
        data={"draw_sha256": "d" * 64, "classes": 3, "train": 3 * run.shots},
        cost={
            "trainable_params": 0 if run.method == "zero_shot" else 2048,
            "train_seconds": 0.0 if run.method == "zero_shot" else 1.5 * run.shots,
            "peak_memory_mib": 1234.5,
        },
        fingerprint="f" * 64,
        config={"seed": run.seed, "method": {"lr": 0.002}, "data": {"name": run.data}},
        provenance={
            "command": command,
            "git": {"sha": "0123456789abcdef", "dirty": False},
            "versions": {"mmadapt": "0.1.0", "torch": "2.9.0"},
            "started": "2026-01-02T03:04:05+00:00",
            "finished": "2026-01-03T03:04:05+00:00",
        },
    ).write(path)
    if details:
        part = {
            "classes": ["cat", HOSTILE, "empty"],
            "correct": [6 + run.seed, 1, 0],
            "total": [10, 10, 0],
            "reliability": {
                "count": [0] * 13 + [5, 15],
                "confidence": [0.0] * 13 + [0.9, 0.97],
                "accuracy": [0.0] * 13 + [0.8, 0.9],
            },
        }
        write_json(path / DETAILS_FILE, {"schema": 1, "sets": dict.fromkeys(scores, part)})
    return path


def campaign(root: Path) -> Path:
    """Write the campaign below ``root`` and return its folder.

    54 runs: 36 few-shot (3 methods, 2 data sets, 3 shots, 2 seeds), 12 base to new, 6 under shift.
    """
    for method, gain in METHODS.items():
        for seed in SEEDS:
            noise = 0.0 if method == "zero_shot" else 0.01 * seed
            for data, level in DATA.items():
                common = {"method": method, "data": data, "seed": seed}
                for shots in SHOTS:
                    top1 = level + (gain * shots**0.5 if gain else 0) + noise
                    put(root, {"test": score(top1, ece=0.05)}, details=shots == 16, shots=shots, **common)
                halves = {"base": score(level + gain + noise), "new": score(1 - level - gain)}
                put(root, halves, protocol="base_to_new", shots=16, **common)
            shifted = {name: score(level + gain) for name, level in TARGETS.items()}
            scores = {"imagenet": score(0.7), **shifted}
            put(
                root,
                scores,
                protocol="domain_generalization",
                data="imagenet",
                method=method,
                shots=16,
                seed=seed,
            )
    return root / "main"


def hostile(root: Path) -> Path:
    """Write one run whose tag, method, data set and class are markup; return the folder to collect."""
    path = put(root, {HOSTILE: score(0.5)}, details=True, shots=1)
    result = asdict(Result.read(path))
    result["key"] |= {"tag": HOSTILE, "method": HOSTILE, "data": HOSTILE}
    result["provenance"]["command"] = HOSTILE
    result["selection"]["rule"] = HOSTILE
    result["config"]["method"] = {"name": HOSTILE}
    write_json(path / "result.json", result)
    return root
