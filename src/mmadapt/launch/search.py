"""The search of hyper-parameters by Optuna as a Hydra plugin, chosen by ``conf/hydra/sweeper/search.yaml``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mmadapt.errors import UserError
from mmadapt.guard import say
from mmadapt.launch.launcher import read_options

BEST_FILE = "optimization_results.yaml"


class SearchSweeper(Sweeper):
    """Optuna's sweeper, with what it chose printed at the end, and a dry run.

    Any launcher may be combined with it. Repeated, a search with a seed for its sampler tries the same values,
    and trials that are done are not computed again.
    """

    def __init__(self, **options: Any) -> None:
        """Take the options of Optuna's sweeper, see its documentation.

        Raises:
            UserError: If the extra is not installed.
        """
        super().__init__()
        try:
            plugin = importlib.import_module("hydra_plugins.hydra_optuna_sweeper.optuna_sweeper")
            optuna = importlib.import_module("optuna")
        except ModuleNotFoundError as error:
            raise UserError(
                f"hydra/sweeper=search needs {error.name}: pip install 'mmadapt[hpo]'."
            ) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._trials, self._params = int(options["n_trials"]), options.get("params") or {}
        self._sweeper: Sweeper = plugin.OptunaSweeper(**options)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands to every sweeper."""
        self._config = config
        self._sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Search, given what was typed.

        Raises:
            UserError: If a run fails, or has no accuracy on val.
        """
        given = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        if read_options(self._config).dry_run:
            print(f"A search of {self._trials} trials over:", *given, sep="\n  ")
            print(
                "It chooses as it goes, so its runs are not known beforehand. Nothing was computed or written."
            )
            return
        if not any("(" in line or "," in line for line in given):
            raise UserError(
                "A search needs at least one interval, such as 'method.ratio=interval(0.1, 0.9)', or sweep=search."
            )
        self._sweeper.sweep(arguments)
        file = Path(str(self._config.hydra.sweep.dir), BEST_FILE)
        best = OmegaConf.load(file)
        values = " ".join(f"{key}={value}" for key, value in best.best_params.items())
        say(f"Best top-1 on val: {100 * best.best_value:.2f} % with {values}\nStored in {file}")
