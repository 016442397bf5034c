"""Start-up time of `data=imagenet` on a simulated tree: 1,281,167 empty files in 1000 class folders.

    python benchmarks/imagenet_index.py [--files 1281167] [--folder DIR]

Prints seconds for the first scan (the index is empty; the kernel has the names), for a start from the
remembered index, and for the whole `setup` of the data module with 16 shots.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmadapt.data.published.folder_index import index_folder
from mmadapt.data.published.imagenet import wnids


def make_tree(root: Path, files: int) -> None:
    size, rest = divmod(files, len(wnids()))
    for number, wnid in enumerate(wnids()):
        folder = root / "imagenet" / "images" / "train" / wnid
        folder.mkdir(parents=True)
        handle = os.open(folder, os.O_RDONLY)
        for i in range(size + (number < rest)):
            os.close(os.open(f"{wnid}_{i * 7}.JPEG", os.O_CREAT, dir_fd=handle))
        os.close(handle)
        os.utime(folder, (1, 1))
        test = root / "imagenet" / "images" / "val" / wnid
        test.mkdir(parents=True)
        for i in range(50):
            (test / f"ILSVRC2012_val_{50 * number + i:08d}.JPEG").touch()


def timed(label: str, function: Callable[..., Any], *arguments: Any) -> None:
    start, used = time.perf_counter(), time.process_time()
    function(*arguments)
    elapsed, used = time.perf_counter() - start, time.process_time() - used
    print(f"{label:28}{elapsed:8.2f} s {used:8.2f} s of one core", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Start-up time of data=imagenet on a simulated tree.")
    parser.add_argument("--files", type=int, default=1_281_167)
    parser.add_argument("--folder", type=Path, help="where the tree is made, and removed afterwards")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="imagenet-index-"))
    try:
        timed("making the tree", make_tree, root, arguments.files)
        train, cache = root / "imagenet" / "images" / "train", root / "cache"
        timed("index, first time", index_folder, train, cache)
        timed("index, remembered", index_folder, train, cache)

        from mmadapt.data.published.imagenet import ImageNetData, class_names

        class_names()  # imports open_clip, as building the backbone does
        data = ImageNetData(
            name="imagenet", root=str(root), folders=["imagenet"], images=["images"], cache=str(cache),
            shots=16, split_seed=1,
        )  # fmt: skip
        timed("setup, remembered index", data.setup)
        print(f"{len(data.train):,} shots, draw {data.drawn.sha256[:12]}")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
