"""Whole runs: what is written, what is skipped, what is refused, what never touches the test images."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from mmadapt.config.build import instantiate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.data.base import LockedTestError
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureEncoder, FeatureSet
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.results import Result
from mmadapt.runs.job import execute
from mmadapt.training.feature_data import EpochLoader, ResidentData

register_resolvers()
CHOICES = {"clip": "vit_b16", "data": "folder", "protocol": "few_shot", "trainer": "cpu", "logger": "csv"}
METHODS = sorted(file.stem for file in (CONF_DIR / "method").glob("*.yaml"))


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_tree):
    """Three classes of 9 images, already split."""
    root = tmp_path_factory.mktemp("images") / "toys"
    counts = {
        f"{split}/{name}": n
        for split, n in (("train", 5), ("val", 2), ("test", 3))
        for name in ("a", "b", "c")
    }
    return write_tree(root, counts)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def run(tmp_path, images, features, small_clip):
    """Run with a small random CLIP on the three classes; overrides as on the command line."""

    def execute_with(*overrides, method="clip_adapter", folder="run"):
        base = [f"method={method}", "data=folder", f"data.root={images}", "trainer=cpu", "shots=4",
                "clip.arch=small-clip", "clip.pretrained=null", f"paths.features={features}"]  # fmt: skip
        if method not in ("zero_shot", "linear_probe", "tip_adapter"):
            base.append("method.epochs=2")
        if method in ("maple", "comma"):
            base.append("method.depth=2")
        with initialize_config_dir(str(CONF_DIR), **BASE):
            cfg = compose("config", overrides=[*base, *overrides])
        return execute(cfg, {**CHOICES, "method": method}, tmp_path / folder, list(overrides))

    return execute_with


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_from_end_to_end(method, run):
    outcome = run(method=method)
    stored = Result.read(outcome.run_dir)
    assert stored is not None
    assert stored == outcome.result
    assert outcome.seconds >= stored.cost["eval_seconds"] > 0
    score = stored.scores["test"]
    assert (score.total, score.classes) == (9, 3)
    assert score.top1 == score.correct / 9
    assert score.top1 == pytest.approx(score.top1_macro), "balanced classes: both accuracies are equal"
    assert score.nll > 0
    assert 0 <= score.ece <= 1
    assert {"config.yaml", "run.log", "adapter.safetensors", "result.json", "metrics.csv"} <= {
        p.name for p in outcome.run_dir.iterdir()
    }
    assert not [key for key in load_file(outcome.run_dir / "adapter.safetensors") if key.startswith("clip.")]
    assert len(stored.data["draw_sha256"]) == 64
    assert stored.provenance["command"] == "python -m mmadapt"
    assert stored.provenance["versions"]["torch"] == torch.__version__.split("+")[0]


def test_the_same_seed_gives_the_same_numbers_and_weights_and_seed_zero_differs_from_one(run):
    first, again, other = (
        run(f"seed={s}", method="tip_adapter_f", folder=f) for s, f in ((0, "a"), (0, "b"), (1, "c"))
    )
    weights = [load_file(o.run_dir / "adapter.safetensors") for o in (first, again, other)]
    assert first.result.scores == again.result.scores
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert (
        first.result.data["draw_sha256"]
        == again.result.data["draw_sha256"]
        != other.result.data["draw_sha256"]
    )


def test_a_finished_run_is_skipped_without_touching_its_files(run, monkeypatch):
    first = run()
    stamp = (first.run_dir / "result.json").stat().st_mtime_ns
    monkeypatch.setattr("mmadapt.runs.experiment.run", lambda *a: pytest.fail("computed again"))
    second = run()
    assert second.status == "skipped"
    assert second.result.scores == first.result.scores
    assert (first.run_dir / "result.json").stat().st_mtime_ns == stamp


def test_another_configuration_is_refused_by_the_keys_that_differ_and_overwrite_replaces_it(run):
    first = run()
    with pytest.raises(UserError, match=r"method\.ratio: 0\.2 → 0\.5.*tag=<new>.*overwrite=true"):
        run("method.ratio=0.5")
    assert Result.read(first.run_dir) == first.result
    replaced = run("method.ratio=0.5", "overwrite=true")
    assert Result.read(first.run_dir).config["method"]["ratio"] == 0.5
    assert replaced.status == "done"


def test_a_failure_leaves_a_note_and_no_result_and_a_later_success_removes_the_note(run):
    with pytest.raises(UserError, match=r"became|not finite"):
        run("method.optimizer.lr=1e30", method="clip_adapter")
    folder = run("overwrite=true").run_dir
    assert not (folder / "failed.json").exists()
    with pytest.raises(UserError):
        run("method.optimizer.lr=1e30", folder="failing")
    note = json.loads((folder.parent / "failing" / "failed.json").read_text())
    assert note["overrides"] == ["method.optimizer.lr=1e30"]
    assert "Traceback" in note["traceback"]
    assert not (folder.parent / "failing" / "result.json").exists()


def test_a_failed_overwrite_keeps_the_old_result(run):
    first = run()
    with pytest.raises(UserError):
        run("method.optimizer.lr=1e30", "overwrite=true")
    assert Result.read(first.run_dir) == first.result


def test_features_are_encoded_once_for_all_runs(run):
    run("tag=x", folder="warm")
    assert run("seed=1", folder="one").result.cost["encoded"] == 0


def test_test_images_are_locked_until_the_final_score(images, small_clip, features, monkeypatch):
    config = {
        "_target_": "mmadapt.data.folder.FolderData",
        "name": "toys",
        "root": str(images),
        "shots": 2,
        "split_seed": 1,
    }
    data = instantiate(config, "data")
    data.setup()
    with pytest.raises(LockedTestError):
        _ = data.test
    from mmadapt.features.encoder import Views, open_store

    encoder = FeatureEncoder(small_clip, open_store(features))
    resident = ResidentData(
        data, encoder, Views(), batch_size=4, seed=1, validate=True, device=torch.device("cpu")
    )
    with pytest.raises(LockedTestError):
        resident.test_dataloader()
    data.setup("test")
    assert len(next(iter(resident.test_dataloader()))[1]) == 9


def test_a_method_that_asks_for_test_images_while_training_fails(run, monkeypatch):
    original = ClipAdapter.training_step

    def peek(self, batch, batch_idx):
        self.trainer.datamodule.test_dataloader()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClipAdapter, "training_step", peek)
    with pytest.raises(LockedTestError):
        run()


def test_best_val_keeps_the_best_epoch_and_last_the_last(run):
    best = run(
        "method.selection=best_val", "method.optimizer.lr=0.5", "method.epochs=6", folder="best"
    ).result
    assert best.selection["rule"] == "best_val"
    assert 1 <= best.selection["epoch"] <= 6
    assert best.selection["val_top1"] >= 0
    last = run(folder="last").result.selection
    assert 0 <= last.pop("val_top1") <= 1
    assert last == {"rule": "last", "epoch": 2, "tuned": {}}


def test_zero_shot_looks_at_no_shots(run):
    result = run(method="zero_shot").result
    assert result.selection == {"rule": "none"}
    assert result.cost["trainable_params"] == 0


def test_unreadable_images_stop_the_run_or_are_counted(run, images, tmp_path, write_tree):
    root = write_tree(tmp_path / "bad", {f"{s}/{c}": 2 for s in ("train", "val", "test") for c in "ab"})
    (root / "test" / "a" / "000.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError, match=r"000\.png"):
        run(f"data.root={root}", method="zero_shot", folder="stop")
    result = run(f"data.root={root}", "data.on_bad_image=skip", method="zero_shot", folder="skip").result
    assert result.scores["test"].total == 3
    assert result.data["skipped"]["test"] == 1


def test_fewer_images_than_shots_are_all_taken_with_a_warning(run, caplog):
    with caplog.at_level(logging.WARNING):
        result = run("shots=50", method="tip_adapter").result
    assert result.data["train"] == 15
    assert result.data["short_classes"] == {"a": 5, "b": 5, "c": 5}
    assert "fewer than 50 training images" in caplog.text


@pytest.mark.parametrize(("override", "message"), [
    ("+trainer.max_steps=3", "max_steps and max_time do not apply"),
    ("+trainer.logger=true", "trainer.logger is set by mmadapt itself"),
    ("+trainer.enable_progres_bar=true", "did you mean 'enable_progress_bar'"),
    ("data.subset=bases", "did you mean 'base'"),
    ("data.on_bad_image=ignore", "Use error or skip"),
    ("data.num_workers=-1", "0 for none, null for one per core"),
    ("trainer.precision=bf16-true", "trainer.precision=bf16-mixed"),
])  # fmt: skip
def test_values_are_refused_before_anything_is_trained(override, message, run):
    with pytest.raises(UserError, match=message.replace("'", ".")):
        run(override)


def test_an_epoch_shows_every_image_once_and_all_views_in_turn():
    features = torch.arange(3 * 5).float().view(3, 5, 1)
    loader = EpochLoader(FeatureSet(features, torch.arange(5)), batch_size=2, seed=0)
    seen = []
    for _ in range(3):
        (epoch,) = iter(loader)
        batches = [batch for batch, weight in epoch if weight == 1]
        assert [len(labels) for _, labels in batches] == [2, 2, 1]
        labels = torch.cat([labels for _, labels in batches])
        values = torch.cat([values for values, _ in batches])
        assert sorted(labels.tolist()) == list(range(5))
        assert (values[:, 0] % 5 == labels).all(), "features and labels stay together"
        seen += values[:, 0].tolist()
    assert sorted(seen) == list(range(15)), "three epochs of three views show each view of each image once"


def test_xmadapter_takes_the_texts_of_the_coop_run_beside_it(run):
    coop = run(method="coop", folder="coop/4shot/seed1")
    adapter = run("method.text_source=coop", method="xmadapter", folder="xmadapter/4shot/seed1")
    plain = run(method="xmadapter", folder="plain/xmadapter/4shot/seed1")
    texts = load_file(adapter.run_dir / "adapter.safetensors")["text_features"]
    assert texts.norm(dim=-1) == pytest.approx([1.0] * 3, abs=1e-5)
    assert "text_features" not in load_file(plain.run_dir / "adapter.safetensors")
    (coop.run_dir / "config.yaml").unlink()
    with pytest.raises(UserError, match="holds no finished CoOp run"):
        run(
            "method.text_source=coop",
            "overwrite=true",
            "seed=1",
            "shots=3",
            method="xmadapter",
            folder="xmadapter/4shot/seed1",
        )


def test_callbacks_of_the_configuration_see_every_batch_and_change_no_weight(run):
    plain = run(folder="plain")
    seen = run("callbacks=[lr_monitor,model_summary]", folder="seen")
    weights = [load_file(each.run_dir / "adapter.safetensors") for each in (plain, seen)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert "lr-SGD" in (seen.run_dir / "metrics.csv").read_text()
    stopped = run("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "method.epochs=30",
                  "method.optimizer.lr=0.0", folder="stopped")  # fmt: skip
    assert stopped.result.selection["epoch"] == 2
    with pytest.raises(UserError, match=r"callbacks\.mine\._target_=os\.system may not be built"):
        run("+callbacks.mine._target_=os.system", folder="refused")
