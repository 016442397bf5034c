"""Runs in this process, and the same runs by two processes with a rank in their environment."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from hydra import compose, initialize_config_dir

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.runs.job import execute
from tests.support import FILES

register_resolvers()
GROUPS = {"clip": "vit_b16", "data": "folder", "protocol": "few_shot", "trainer": "ddp", "logger": "none"}
Jobs = Sequence[tuple[str, list[str]]]
# Torch and Lightning are imported once, by a process that starts no thread, and every rank is forked from it.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["mmadapt.runs.experiment", "mmadapt.runs.job", "hydra"])


def run(folder: Path, overrides: list[str], method: str):
    """Make one run; in a process with a rank it is one of two that make it together."""
    with initialize_config_dir(str(CONF_DIR), **BASE):
        cfg = compose("config", overrides=[f"method={method}", *overrides])
    return execute(cfg, {**GROUPS, "method": method}, folder, overrides)


class Two:
    """Two processes that make runs together, each in a folder named after its method.

    Attributes:
        processes: Ranks 0 and 1.
    """

    def __init__(self, root: Path, jobs: Jobs) -> None:
        root.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = min(probe.getsockname()[1], 60000)
        self._errors = [root / f"stderr{rank}" for rank in range(2)]
        self.processes = [
            PROCESSES.Process(target=_take_part, args=(rank, root, jobs, port)) for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def kill(self) -> None:
        """Kill both and wait for their end."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    def finish(self) -> str:
        """Wait for the end of both, which must be a good one; return what rank 0 said."""
        for process in self.processes:
            process.join(400)
        said = [path.read_text() for path in self._errors]
        assert [process.exitcode for process in self.processes] == [0, 0], "\n".join(said)
        return said[0]


def _take_part(rank: int, root: Path, jobs: Jobs, port: int) -> None:
    os.dup2(os.open(root / f"stderr{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    torch.set_num_threads(1)
    os.environ |= {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    open_clip.add_model_config(FILES / "small-clip.json")
    for number, (method, overrides) in enumerate(jobs):
        os.environ["MASTER_PORT"] = str(port + number)
        run(root / method, [*overrides, "trainer=ddp", "trainer.accelerator=cpu"], method)
