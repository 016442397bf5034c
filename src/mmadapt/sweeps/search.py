"""The search of hyper-parameters by Optuna as a Hydra plugin, chosen by ``conf/hydra/sweeper/search.yaml``."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from mmadapt.errors import UserError
from mmadapt.progress import say
from mmadapt.runs.job import Outcome
from mmadapt.sweeps.options import read_options

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


_GRIDS = ("mmadapt.sweeps.sweeper.GridSweeper", "hydra._internal.core_plugins.basic_sweeper.BasicSweeper")


class NoObjectiveError(UserError):
    """A run left a search nothing to optimise; the run itself is in order."""


def objective(outcome: Outcome) -> float | None:
    """Return what a Hydra sweeper may optimise: the accuracy on val, never on test."""
    return outcome.result.selection.get("val_top1") if outcome.result else None


def is_search(hydra: Any) -> bool:
    """Whether the sweeper chooses values by what runs return; ``hydra`` is that node of the configuration."""
    return str(hydra.sweeper._target_) not in _GRIDS


def check_objective(value: float | None, method: str, hydra: Any) -> None:
    """Refuse a run without an accuracy on val, or a mere plan, in the hands of a sweeper that optimises.

    Args:
        value: Its `objective`.
        method: The method.
        hydra: The ``hydra`` node of the configuration.

    Raises:
        NoObjectiveError: Saying what to choose instead.
    """
    if value is None and is_search(hydra):
        raise NoObjectiveError(
            f"{method} ran without an accuracy on val, which a search optimises: a method that chooses nothing has "
            "none, and one that adapts the towers has one with method.selection=best_val alone. Search over "
            "another method, or leave out sweep=search and hydra/sweeper to run a grid."
        )


def check_plannable(hydra: Any) -> None:
    """Refuse a dry run of a foreign sweeper that optimises: it would take the plan for a failure.

    Raises:
        NoObjectiveError: Saying what to choose instead.
    """
    if is_search(hydra):
        target = str(hydra.sweeper._target_)
        raise NoObjectiveError(
            f"launch.dry_run cannot plan for {target.rsplit('.', 1)[-1]}; hydra/sweeper=search has a dry run."
        )
