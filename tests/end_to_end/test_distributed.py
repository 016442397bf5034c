"""Runs on two processes equal runs on one: same draw, same weights, same counts on an odd-sized set."""

from __future__ import annotations

import json

import pytest
import torch
from pyarrow import parquet
from safetensors.torch import load_file
from tests.support.distributed_runs import Two, run

from mmadapt.config.schema import register_resolvers
from mmadapt.results import Result
from mmadapt.training.feature_data import share_of

pytestmark = pytest.mark.slow

register_resolvers()
RUNS = {
    "zero_shot": [],
    # Processes add gradients in another order. A rate of 0.02 keeps what 12 steps make of that far below the bounds.
    "clip_adapter": ["method.epochs=3", "method.selection=best_val", "method.optimizer.lr=0.02"],
    "tip_adapter_f": ["method.epochs=2"],
    "xmadapter": ["method.epochs=2", "method.hard_weight=class"],
    "maple": ["method.epochs=2", "method.depth=2", "method.selection=best_val"],
}


@pytest.fixture(scope="module")
def options(tmp_path_factory, write_tree):
    """Three classes, 5 shots each in batches of 4, 11 test images, one of them broken."""
    root = tmp_path_factory.mktemp("distributed")
    counts = {f"train/{c}": 5 for c in "abc"} | {f"val/{c}": 3 for c in "abc"}
    tree = write_tree(root / "toys", {**counts, "test/a": 3, "test/b": 4, "test/c": 4})
    (tree / "test" / "b" / "003.png").write_bytes(b"broken")
    return ["data=folder", f"data.root={tree}", "data.on_bad_image=skip", "shots=5", "seed=2", "logger=none",
            "clip.arch=small-clip", "clip.pretrained=null", "save_predictions=true"]  # fmt: skip


def overrides_of(method, options, features):
    batch = [] if method in ("zero_shot",) else ["method.batch_size=4"]
    return [*options, *RUNS[method], *batch, f"paths.features={features}"]


@pytest.fixture(scope="module")
def two(tmp_path_factory, options):
    """The folder of the runs of two processes; each encodes a part into one store."""
    root = tmp_path_factory.mktemp("two")
    jobs = [(method, overrides_of(method, options, root / "features")) for method in RUNS]
    Two(root, jobs).finish()
    return root


@pytest.fixture(scope="module")
def one(tmp_path_factory, options, small_clip):
    root = tmp_path_factory.mktemp("one")
    for method in RUNS:
        overrides = [*overrides_of(method, options, root / "features"), "trainer=cpu"]
        run(root / method, overrides, method)
    return root


@pytest.mark.parametrize("method", RUNS)
def test_two_processes_equal_one(method, one, two):
    alone, together = Result.read(one / method), Result.read(two / method)
    assert alone is not None
    assert together is not None
    assert (alone.provenance["world_size"], together.provenance["world_size"]) == (1, 2)
    assert alone.data == together.data
    assert alone.fingerprint == together.fingerprint
    score, other = alone.scores["test"], together.scores["test"]
    assert (other.correct, other.total) == (score.correct, score.total)
    assert score.total == 10
    assert alone.data["skipped"]["test"] == 1
    for metric in ("top1", "top1_macro", "top5", "nll", "ece"):
        assert getattr(other, metric) == pytest.approx(getattr(score, metric), abs=1e-5), metric
    assert together.selection["rule"] == alone.selection["rule"]
    assert together.selection.get("epoch") == alone.selection.get("epoch")
    assert together.selection.get("tuned") == pytest.approx(alone.selection.get("tuned"))
    weights, others = (load_file(root / method / "adapter.safetensors") for root in (one, two))
    assert weights.keys() == others.keys()
    for key in weights:
        torch.testing.assert_close(others[key], weights[key], rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("method", ["clip_adapter", "maple"])
def test_details_and_predictions_are_of_all_processes(method, one, two):
    tables = [parquet.read_table(root / method / "predictions.parquet").to_pydict() for root in (one, two)]
    assert tables[0]["image"] == tables[1]["image"]
    assert len(set(tables[0]["image"])) == 10
    assert tables[0]["predicted"] == tables[1]["predicted"]
    assert tables[0]["confidence"] == pytest.approx(tables[1]["confidence"], abs=1e-5)
    details = [
        json.loads((root / method / "details.json").read_text())["sets"]["test"] for root in (one, two)
    ]
    assert details[0]["total"] == details[1]["total"] == [3, 3, 4]
    assert details[0]["reliability"]["count"] == details[1]["reliability"]["count"]


def test_encoding_is_shared_out(one, two):
    """The processes encode every image once between them; each tries the broken one again, and encodes prompts.

    Both look for the prompts first: one that comes when the other has just stored them takes them from there.
    """
    alone, together = (Result.read(root / "zero_shot").cost["encoded"] for root in (one, two))
    prompts, broken = 3, 1
    assert together - alone - 2 * broken in (0, prompts)
    keys = [path.name for path in (two / "features").rglob("*.safetensors")]
    assert len(keys) == len(set(keys)) >= 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_shares_weigh_as_much_as_the_whole(size, world_size):
    values = torch.randn(size, dtype=torch.double, generator=torch.Generator().manual_seed(size))
    means = []
    for rank in range(world_size):
        share, weight = share_of(size, rank, world_size)
        means.append(weight * values[share].mean())
    assert float(torch.stack(means).mean()) == pytest.approx(float(values.mean()))
