"""The sweeper of grids as a Hydra plugin, chosen by ``conf/hydra/sweeper/mmadapt.yaml``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mmadapt.config.hydra_versions import admit_plugins
from mmadapt.config.trainer_options import is_debug
from mmadapt.errors import UserError
from mmadapt.runs.job import Outcome
from mmadapt.sweeps.composer import Composer
from mmadapt.sweeps.dry_run import print_plan
from mmadapt.sweeps.launcher import SweepLauncher, plan_all
from mmadapt.sweeps.options import read_options
from mmadapt.sweeps.report import outcomes
from mmadapt.sweeps.search import SearchSweeper

SWEEP_FILE = "multirun.yaml"


class SweepFailedError(UserError):
    """Some jobs of a sweep failed; each has been reported."""


class GridSweeper(Sweeper):
    """The grid of Hydra's basic sweeper without its second composition of every job, and with a dry run.

    Any launcher may be combined with it. Nothing is written before all jobs are known to be composable.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        super().__init__()
        self._batch_size, self._params = max_batch_size, dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to every sweeper."""
        self._context, self._config = hydra_context, config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[JobReturn]]:
        """Run the grid that the overrides span.

        Raises:
            SweepFailedError: At the end, if jobs failed.
            UserError: At the start, if a job cannot be composed.
        """
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        given = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        batches = BasicSweeper.split_arguments(parser.parse_overrides(given), self._batch_size)
        options = read_options(self._config)
        if options.dry_run:
            every = list(itertools.chain.from_iterable(batches))
            cells = plan_all(Composer(self._context, self._config), every, 0)
            print_plan(cells, Path(self._config.paths.results), options.jobs)
            return []
        returns: list[Sequence[JobReturn]] = []
        started = 0
        for batch in batches:
            returns.append(self._launch(batch, started, sum(map(len, batches))))
            started += len(batch)
            if options.fail_fast and any(job.status == JobStatus.FAILED for job in returns[-1]):
                break
        failed = sum(job.status == JobStatus.FAILED for job in itertools.chain.from_iterable(returns))
        if failed:
            raise SweepFailedError(f"{failed} jobs failed.")
        return returns

    def _launch(self, batch: Sequence[Sequence[str]], started: int, total: int) -> Sequence[JobReturn]:
        if isinstance(self._launcher, SweepLauncher):  # composes the jobs before it starts one
            self._launcher.total = total
        else:
            compose = Composer(self._context, self._config)
            for number, overrides in enumerate(batch, started):  # now, as it may happen elsewhere
                compose(overrides, number)
        jobs = self._launcher.launch(batch, initial_job_idx=started)
        if len(outcomes) < started + len(batch):  # they ran in other processes
            outcomes.extend(_outcome(job) for job in jobs)
        self._save()
        return jobs

    def _save(self) -> None:
        """Note the sweep where Hydra notes it."""
        folder = Path(str(self._config.hydra.sweep.dir))
        if folder.is_dir() and not is_debug(self._config.trainer):
            OmegaConf.save(self._config, folder / SWEEP_FILE)


def register_plugins() -> None:
    """Make sweepers and launcher known to Hydra; may be called again."""
    admit_plugins()
    for plugin in (SweepLauncher, GridSweeper, SearchSweeper):
        Plugins.instance().register(plugin)


def _outcome(job: JobReturn) -> Outcome:
    assert job.hydra_cfg is not None  # run_job of Hydra sets it
    run_dir = Path(job.hydra_cfg.hydra.runtime.output_dir)
    if job.status == JobStatus.FAILED:
        error: Any = job._return_value  # the property would print it
        return Outcome("failed", run_dir, 0.0, error=str(error))
    return Outcome("debug" if job.cfg is not None and is_debug(job.cfg.trainer) else "done", run_dir, 0.0)
