"""``python -m mmadapt.data check``: every file and count, as a run would read them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mmadapt.config.build import instantiate
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers, resolve
from mmadapt.data.images import BadImageError, ImageSet
from mmadapt.data.published.base import BenchmarkData
from mmadapt.data.published.imagenet import ImageNetData, ImageNetShiftData
from mmadapt.data.splits import Splits
from mmadapt.data.tools.catalogue import data_root
from mmadapt.errors import UserError
from mmadapt.progress import track


def build(name: str, root: Path | None, overrides: Sequence[str]) -> BenchmarkData:
    """Return a data set as a run with these settings would build it."""
    register_resolvers()
    GlobalHydra.instance().clear()
    fixed = [f"data={name}", "clip=tiny", "method=zero_shot"]
    if root is not None:
        fixed.append(f"paths.data={data_root(root)}")
    try:
        with initialize_config_dir(str(CONF_DIR), **BASE):
            config = compose("config", overrides=[*fixed, *overrides])
            data: BenchmarkData = instantiate(resolve(config)["data"], "data")
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error
    return data


def check(name: str, root: Path | None, overrides: Sequence[str], decode: bool) -> int:
    """Print what is found of a data set; return 1 if there is a problem."""
    package = logging.getLogger("mmadapt")
    level = package.level
    package.setLevel(logging.ERROR)  # what it would say is printed below
    lines: list[str] = []
    problems: list[str] = []
    try:
        data = build(name, root, overrides)
        splits = data.read_splits()
        _report(data, splits, lines, problems)
        if decode:
            bad = undecodable(name, [splits.train, splits.val, splits.test])
            lines.append(f"{len(bad)} images cannot be decoded" if bad else "every image can be decoded")
            problems += bad[:5] + ["…"] * (len(bad) > 5)
    except UserError as error:
        problems.append(str(error))
    finally:
        package.setLevel(level)
    head = f"{name}: {'FAILED' if problems else 'ok'}"
    print("\n".join([head, *(f"  {line}" for line in lines), *(f"  ! {problem}" for problem in problems)]))
    return 1 if problems else 0


def _report(data: BenchmarkData, splits: Splits, lines: list[str], problems: list[str]) -> None:
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    if splits.val_from_train:
        del parts["val"]
    sizes = ", ".join(f"{key} {len(images):,}" for key, images in parts.items())
    lines.append(f"images in {getattr(splits.test.source, 'root', '?')}")
    lines.append(f"{len(data.kept_classes(splits))} classes, {sizes}")
    problems += data.findings
    if isinstance(data, ImageNetData) and not len(splits.train):
        data.train = splits.train
        try:
            data.need_shots()
        except UserError as error:
            (lines if isinstance(data, ImageNetShiftData) else problems).append(str(error))


def undecodable(name: str, sets: Sequence[ImageSet]) -> list[str]:
    """Open every image of the sets once; return what is wrong with those that cannot be read."""

    def problem(images: ImageSet, index: int) -> str | None:
        try:
            images.source.load(index)
        except BadImageError as error:
            return str(error)
        return None

    jobs = {(id(images.source), index): (images, index) for images in sets for index in images.indices}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(problem, *zip(*jobs.values(), strict=True))
        return [text for text in track(results, f"decoding {name}", len(jobs)) if text]
