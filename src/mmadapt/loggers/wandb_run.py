"""One W&B run per job: identity, mode, curves, final scores, exit code.

The id of the run is a hash of the run key, so a re-run has the id of the run it replaces, online and offline.
W&B has no call that empties a run: ``resume="allow"`` appends to the old curve, ``"never"`` refuses the id, a
deleted run's id is refused for ever, and rewinding (``resume_from``) is a preview that not every server has
(docs.wandb.ai/models/runs/rewind). So ``resume`` stays unset: W&B starts the run anew under the same id, from
step 0, with the new configuration and summary. A server may go on showing points of the old curve beyond the
last step of the new one (github.com/wandb/wandb/issues/3424); ``logger.wandb.suffix=<any>`` gives a re-run an id, and
so a curve, of its own. Offline, the folder of the earlier attempt is removed, so that `wandb sync` uploads one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import netrc
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import urlparse

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmadapt.config.identity import fingerprint
from mmadapt.errors import UserError, one_of
from mmadapt.results import Result, RunKey

if TYPE_CHECKING:
    from wandb.sdk.wandb_run import Run

log = logging.getLogger(__name__)

Mode = Literal["online", "offline", "disabled"]

_TAG_LENGTH = 64  # W&B refuses longer ones
_unreachable: set[str] = set()  # result folders whose runs are kept offline after a failed start
_open: set[str] = set()  # ids of runs in progress, of which there are two when a method trains its source


def open_wandb(
    *,
    key: RunKey,
    config: Mapping[str, Any],
    entity: str | None = None,
    project: str | None = None,
    mode: Mode | None = None,
    suffix: str | None = None,
    confusion_matrix: bool = False,
    reliability: bool = False,
    table: bool = False,
    system_metrics: bool = False,
    upload_timeout: float = 300,
) -> WandbRun | None:
    """Start the W&B run of a job; offline if W&B cannot be reached, None if that fails too.

    Args:
        key: Identity of the run.
        config: The whole resolved configuration.
        entity: User or team; None is the account's own.
        project: Project of the run.
        mode: See `choose_mode`.
        suffix: Part of the run's id: keeps the earlier run of a re-run.
        confusion_matrix: Show the confusion matrix of every scored set.
        reliability: Show the reliability diagram of every scored set.
        table: Show the table of the scores, and of each class.
        system_metrics: Show the use of CPU, GPU and memory.
        upload_timeout: Seconds to wait for the upload at the end.

    Raises:
        UserError: If a value makes no sense, W&B is not installed, or ``mode=online`` is without an API key.
    """
    objects = {"confusion_matrix": confusion_matrix, "reliability": reliability, "table": table}
    for name, value in {**objects, "system_metrics": system_metrics}.items():
        if not isinstance(value, bool):
            raise UserError(f"logger.wandb.{name}={value!r} must be true or false.")
    if mode is not None:
        one_of("logger.wandb.mode", mode, get_args(Mode))
    if isinstance(upload_timeout, bool) or not isinstance(upload_timeout, int | float) or upload_timeout <= 0:
        raise UserError(
            f"logger.wandb.upload_timeout={upload_timeout!r} must be a number of seconds above 0."
        )
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise UserError("logger=wandb needs a package that is not installed: pip install wandb.") from error
    results = Path(config["paths"]["results"]).resolve()  # W&B's process may have another working directory
    mode = choose_mode(mode, results)
    results.mkdir(parents=True, exist_ok=True)
    identity = run_id(key, suffix)
    arguments: dict[str, Any] = {
        "entity": entity,
        "project": project,
        "dir": results,
        "id": identity,
        "name": f"{group(key)}-seed{key.seed}",
        "group": group(key),
        "job_type": key.protocol,
        "tags": tags(key),
        "config": {**config, "run": {**asdict(key), "fingerprint": fingerprint(config)}},
        "reinit": "create_new",  # a run of the caller that is still open is neither joined nor ended
        "settings": wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_job_creation=True,
            save_code=False,
            x_disable_stats=not system_metrics,
            finish_timeout=upload_timeout,
        ),
    }
    if mode != "offline":
        if str(results) in _unreachable:
            mode = "offline"
        else:
            run = _start(arguments, mode)
            if run is not None:
                return WandbRun(run, objects)
            _unreachable.add(str(results))  # the next job of a sweep does not wait for a server again
            if _open:
                return None
            wandb.teardown()  # the service holds the id of the run that did not start
            mode = "offline"
    run = _start(arguments, mode)
    return None if run is None else WandbRun(run, objects)


def _start(arguments: Mapping[str, Any], mode: Mode | None) -> Run | None:
    """Start a run; a warning and None if that fails."""
    import wandb

    place, identity = arguments["dir"] / "wandb", arguments["id"]
    if (mode or os.environ.get("WANDB_MODE")) != "disabled":
        for folder in place.glob(f"offline-run-*-{identity}"):  # of the attempt that this one replaces
            shutil.rmtree(folder, ignore_errors=True)
    before = set(place.glob(f"run-*-{identity}"))
    try:
        return wandb.init(mode=mode, **arguments)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        then = "without W&B" if mode == "offline" or _open else "offline; upload it later with `wandb sync`"
        log.warning(
            "W&B could not start (%s: %s). The run goes on %s.", type(error).__name__, reason[0], then
        )
        for folder in set(place.glob(f"run-*-{identity}")) - before:
            shutil.rmtree(folder, ignore_errors=True)  # nothing was logged to it
        return None


class WandbRun(Logger):
    """Curves by epoch while the run lasts; scores, cost and objects at its end."""

    called = "W&B"
    advice = " What has been logged is on disk: see `wandb sync --help`."

    def __init__(self, run: Run, objects: Mapping[str, bool]) -> None:
        """Log to an open W&B run.

        Args:
            run: The run.
            objects: Which of ``table``, ``confusion_matrix`` and ``reliability`` are asked for.
        """
        super().__init__()
        self._run, self._objects = run, objects
        _open.add(run.id)
        run.define_metric("epoch")
        for curves in ("train/*", "val/*"):
            run.define_metric(curves, step_metric="epoch")
        if not run.offline:  # asking for the URL of an offline run prints a warning
            log.info("W&B run: %s", run.url)

    @property
    def name(self) -> str | None:
        """Project of the run."""
        return self._run.project

    @property
    def version(self) -> str | None:
        """Id of the run."""
        return self._run.id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a row of the curves; ``epoch``, counted from 0, is among the metrics."""
        self._run.log(dict(metrics))

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run has the whole configuration."""

    def final(self, result: Result, details: Mapping[str, Any]) -> None:
        """Log final scores, selection and cost as summary, and the objects asked for.

        The row of final scores also holds ``shots``, the x-axis of curves over several runs.
        """
        from mmadapt.loggers.wandb_objects import build_objects

        scores = result.scalars()
        self._run.log({"shots": result.key.shots, **scores, **build_objects(self._objects, result, details)})
        selection = {key: value for key, value in result.selection.items() if key != "tuned"}
        self._run.summary.update(
            {
                **scores,
                **{f"selection/{key}": value for key, value in selection.items()},
                **{f"tuned/{key}": value for key, value in result.selection.get("tuned", {}).items()},
                **{f"cost/{key}": value for key, value in result.cost.items()},
            }
        )

    def close(self, failed: bool) -> None:
        """End the run; after an error with exit code 1, so that W&B shows it as failed."""
        _open.discard(self._run.id)
        self._run.finish(exit_code=int(failed))


def group(key: RunKey) -> str:
    """Return the group of a run, over whose seeds W&B averages."""
    return f"{key.method}-{key.data}-{key.shots}shot"


def tags(key: RunKey) -> list[str]:
    """Return the tags of a run, each once."""
    return list(
        dict.fromkeys(
            value[:_TAG_LENGTH] for value in (key.method, key.data, key.clip, key.protocol, key.tag)
        )
    )


def run_id(key: RunKey, suffix: str | None = None) -> str:
    """Return the id of a run: 16 hexadecimal digits of the hash of its key, and the suffix if there is one."""
    digits = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()[:16]
    return digits if suffix in (None, "") else f"{digits}-{suffix}"


def choose_mode(mode: Mode | None, results: Path) -> Mode | None:
    """Return the mode to start W&B in; None leaves it to ``WANDB_MODE`` and W&B's own settings.

    Args:
        mode: ``logger.wandb.mode``, which wins over the environment.
        results: Folder below which offline runs are written.

    Raises:
        UserError: If ``online`` is asked for without an API key; W&B would wait for one to be typed.
    """
    if mode is None and os.environ.get("WANDB_MODE"):
        return None
    if mode == "online" and not has_api_key():
        raise UserError(
            "logger.wandb.mode=online needs an API key, and neither WANDB_API_KEY nor a netrc file has one. "
            "Type wandb login, or use logger.wandb.mode=offline."
        )
    if mode is None and not has_api_key():
        _tell_offline(results / "wandb")
        return "offline"
    return mode


@lru_cache
def _tell_offline(folder: Path) -> None:
    log.warning("W&B: no API key, so runs are kept offline. To upload: wandb sync %s/offline-run-*", folder)


def has_api_key() -> bool:
    """Return whether W&B would find a key in the environment or in a netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    home = Path("~").expanduser()
    for file in (os.environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        try:
            if file and netrc.netrc(file).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError):
            continue
    return False
