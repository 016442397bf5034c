"""What several test files share: a small CLIP with random weights, and image files."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, here and in the processes that tests start. Spinning threads cost a shared machine much,
# and where no bytecode is kept every process compiles its libraries anew, for twice the time of the imports.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if "PYTEST_XDIST_WORKER" in os.environ:  # a thread each: several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix

import numpy as np
import open_clip
import pytest
from PIL import Image

from mmadapt.clip import ClipBackbone
from mmadapt.collect.__main__ import main
from tests.support import FILES

# Tests press Ctrl-C; a shell that starts pytest in the background has it ignored, which children inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def small_clip() -> ClipBackbone:
    """A two-layer CLIP of 32-pixel images; half a second to build. Do not change its weights."""
    open_clip.add_model_config(FILES / "small-clip.json")
    return ClipBackbone("small-clip", None, seed=1)


@pytest.fixture(scope="session")
def counting_clip() -> ClipBackbone:
    """The widths of ViT-B/16 and nothing else of it: parameters of prompts depend on widths alone."""
    open_clip.add_model_config(FILES / "counting-clip.json")
    return ClipBackbone("counting-clip", None)


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    """Write an image of noise that follows ``seed``; the suffix chooses the format."""

    def write(path: Path, seed: int = 0, size: int = 12) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture(scope="session")
def write_tree(write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Write a tree of PNG files, given the number of images in each folder: ``{"train/cat": 3}``."""

    def write(root: Path, counts: dict[str, int]) -> Path:
        for number, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write_image(root / folder / f"{i:03d}.png", seed=1000 * number + i)
        return root

    return write


@pytest.fixture
def show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line of the tables on tmp_path; return exit status, stdout and stderr."""

    def run(*arguments: object, root: Path = tmp_path) -> tuple[int, str, str]:
        status = main([str(root), *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
