"""One process of several that make the same runs; started by test_distributed.py with a rank in its environment."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import open_clip
from hydra import compose, initialize_config_dir

from mmadapt.config import CONF_DIR, register_resolvers
from mmadapt.hydra_line import BASE
from mmadapt.runner import execute

register_resolvers()
GROUPS = {"clip": "vit_b16", "data": "folder", "protocol": "few_shot", "trainer": "ddp", "logger": "none"}


def run(folder: Path, overrides: list[str], method: str):
    """Make one run; in a process with a rank it is one of two that make it together."""
    with initialize_config_dir(str(CONF_DIR), **BASE):
        cfg = compose("config", overrides=[f"method={method}", *overrides])
    return execute(cfg, {**GROUPS, "method": method}, folder, overrides)


def main() -> None:
    open_clip.add_model_config(Path(__file__).parent / "data" / "small-clip.json")
    for number, (method, overrides) in enumerate(json.loads(sys.argv[2])):
        os.environ["MASTER_PORT"] = str(int(sys.argv[3]) + number)
        run(Path(sys.argv[1]) / method, [*overrides, "trainer=ddp", "trainer.accelerator=cpu"], method)


if __name__ == "__main__":
    main()
