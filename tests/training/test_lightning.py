"""Stock Lightning drives every method, and every data module."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Trainer
from omegaconf import OmegaConf
from tests.support import benchmark_trees as trees
from tests.support.methods import METHODS, build
from tests.support.trainers import QUIET

from mmadapt.config.build import instantiate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import resolve
from mmadapt.data.base import LockedTestError
from mmadapt.data.folder import FolderData
from mmadapt.data.images import BadImageError
from mmadapt.errors import UserError
from mmadapt.features.encoder import FeatureEncoder, open_store
from mmadapt.methods.clip_adapter import ClipAdapter
from mmadapt.methods.tip_adapter import TipAdapterF
from mmadapt.methods.zero_shot import ZeroShot
from mmadapt.training.feature_data import ResidentData


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_tree):
    names = ("red_square", "blue_circle", "green_star")
    counts = {f"{split}/{name}": n for split, n in (("train", 4), ("val", 2), ("test", 3)) for name in names}
    return write_tree(tmp_path_factory.mktemp("images") / "toys", counts)


def folder(root, **options):
    return FolderData(name="toys", root=str(root), shots=4, split_seed=1, **options)


@pytest.mark.parametrize("name", METHODS)
def test_fit_validate_test_and_predict_every_method(name, small_clip, root):
    method = build(name, small_clip)
    data = folder(root)
    if method.epochs:
        method.epochs = 1
    trainer = Trainer(**QUIET)
    trainer.fit(method, datamodule=data)
    assert trainer.max_epochs == method.epochs == trainer.current_epoch
    (val,) = trainer.validate(method, datamodule=data, verbose=False)
    with pytest.raises(LockedTestError):
        trainer.predict(method, datamodule=data)
    (test,) = trainer.test(method, datamodule=data, verbose=False)
    probabilities = torch.cat(trainer.predict(method, datamodule=data))
    assert probabilities.shape == (9, 3)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(9))
    labels = data.test.labels
    assert test["test/top1"] == pytest.approx(float((probabilities.argmax(1) == labels).float().mean()))
    assert 0 <= val["val/top1"] <= 1
    with pytest.raises(LockedTestError, match="nothing is fitted after that"):
        trainer.fit(method, datamodule=data)


@pytest.mark.parametrize("name", METHODS)
def test_hyper_parameters_are_those_that_were_given_without_the_live_objects(name, small_clip):
    method = build(name, small_clip)
    assert method.hparams["epochs"] == method.epochs
    assert {"clip", "classes", "text_features"}.isdisjoint(method.hparams)


def test_features_in_memory_give_what_their_images_give(small_clip, root, tmp_path):
    data = folder(root)
    data.setup()
    resident = ResidentData(
        data,
        FeatureEncoder(small_clip, open_store(tmp_path)),
        batch_size=256,
        seed=1,
        device=torch.device("cpu"),
    )
    numbers = []
    for module in (resident, folder(root)):
        torch.manual_seed(0)
        method = TipAdapterF(small_clip, data_classes(root), epochs=3, batch_size=256)
        trainer = Trainer(**QUIET)
        trainer.fit(method, datamodule=module)
        assert method.cache_keys.shape == (12, small_clip.dim)
        (scores,) = trainer.test(method, datamodule=module, verbose=False)
        probabilities = torch.cat(trainer.predict(method, datamodule=module))
        numbers.append((scores, probabilities))
    torch.testing.assert_close(numbers[0][1], numbers[1][1], rtol=1e-3, atol=1e-4)


def data_classes(root):
    data = folder(root)
    data.setup()
    return data.classes


def test_the_best_epoch_on_val_is_what_is_left(small_clip, root):
    method = ClipAdapter(small_clip, data_classes(root), epochs=4, selection="best_val")
    scores = []
    original = method.on_validation_epoch_end

    def noted():
        scores.append(float(method.scorer.compute().top1))
        original()

    method.on_validation_epoch_end = noted
    trainer, data = Trainer(**QUIET), folder(root)
    trainer.fit(method, datamodule=data)
    (val,) = trainer.validate(method, datamodule=data, verbose=False)
    assert val["val/top1"] == pytest.approx(max(scores[:4]))


@pytest.mark.parametrize(
    "options",
    [{"gradient_clip_val": 1e-8, "max_epochs": 1}, {"accumulate_grad_batches": 2}, {"max_epochs": 2}],
)
def test_options_of_the_trainer_have_their_effect(options, small_clip, root):
    weights = []
    for more in ({}, options):
        torch.manual_seed(0)
        method = ClipAdapter(small_clip, data_classes(root), epochs=3, batch_size=4, scheduler=None)
        trainer = Trainer(**QUIET, **more)
        trainer.fit(method, datamodule=folder(root))
        weights.append(method.adapters["image"].down.weight.detach().clone())
        assert trainer.current_epoch == more.get("max_epochs", 3)
    assert not torch.equal(*weights)


DATA = sorted(file.stem for file in (CONF_DIR / "data").glob("[!_]*.yaml"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Every published data set as a small tree."""
    root = tmp_path_factory.mktemp("published")
    for name in trees.NAMES:
        trees.write(root, name, OmegaConf.load(CONF_DIR / "data" / f"{name}.yaml").folders[0])
    return root


@pytest.mark.parametrize("name", DATA)
def test_every_data_set_is_a_data_module_for_any_trainer(name, small_clip, published, root):
    where = [f"data.root={root}"] if name == "folder" else []
    overrides = [
        f"data={name}",
        *where,
        "shots=1",
        "clip=tiny",
        f"paths.data={published}",
        "method=zero_shot",
    ]
    with initialize_config_dir(str(CONF_DIR), **BASE):
        node = resolve(compose("config", overrides=overrides))["data"]
    data = instantiate(node, "data")
    data.setup()
    method, trainer = (
        ZeroShot(small_clip, data.classes, batch_size=64),
        Trainer(**QUIET, limit_test_batches=2),
    )
    data.trainer = trainer
    trainer.strategy.connect(method)
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 32, 32)
    assert labels.dtype == torch.int64
    assert len(images) == len(labels) == min(64, len(data.train))
    (scores,) = trainer.test(method, datamodule=data, verbose=False)
    assert 0 <= scores["test/top1"] <= 1
    assert next(iter(data.predict_dataloader()))[0].shape == next(iter(data.test_dataloader()))[0].shape


def test_without_a_method_a_data_module_wants_a_transform(small_clip, root):
    data = folder(root)
    data.setup()
    with pytest.raises(UserError, match=r"data\.transform = clip\.transform"):
        data.train_dataloader()
    data.transform = small_clip.transform
    first, second = ([labels for _, labels in data.train_dataloader()] for _ in range(2))
    assert torch.equal(torch.cat(first), torch.cat(second)), "the order depends on the seed of the draw"


def test_an_image_that_cannot_be_decoded_stops_or_is_left_out(small_clip, tmp_path, write_tree):
    root = write_tree(tmp_path / "bad", {f"{s}/{c}": 2 for s in ("train", "val", "test") for c in "ab"})
    (root / "val" / "a" / "000.png").write_bytes(b"\x89PNG broken")
    for rule in ("skip", "error"):
        data = FolderData(name="bad", root=str(root), shots=2, split_seed=1, on_bad_image=rule)
        data.setup()
        data.transform = small_clip.transform
        if rule == "skip":
            ((_, labels),) = data.val_dataloader()
            assert len(labels) == 3
        else:
            with pytest.raises(BadImageError, match=r"000\.png"):
                next(iter(data.val_dataloader()))
