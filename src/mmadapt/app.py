"""The command ``python -m mmadapt``: Hydra composes, `mmadapt.runs.job` runs, a table is printed."""

from __future__ import annotations

import os
import re
import sys

import hydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mmadapt.config.hydra_versions import BASE
from mmadapt.config.messages import check_choices, explain
from mmadapt.config.paths import CONF_DIR
from mmadapt.errors import UserError
from mmadapt.progress import Guard
from mmadapt.runs.locks import BusyError
from mmadapt.sweeps import child
from mmadapt.sweeps.other_launchers import job
from mmadapt.sweeps.report import outcomes
from mmadapt.sweeps.search import NoObjectiveError

_DRY_RUN = re.compile(r"\+{0,2}launch\.dry_run=(true|yes|on|1)", re.IGNORECASE)
_NO_CHOICE = re.compile(r"experiment=none|(experiment|sweep|callbacks|debug)=null")


def main() -> None:
    """Run the command; mistakes of the user end as one message and exit code 1."""
    # Hydra takes no null for a group: being the default of these, it is left out.
    typed = [argument for argument in sys.argv[1:] if not _NO_CHOICE.fullmatch(argument)]
    # The source of a protocol is its data set; Hydra can choose an option only by the name of its group.
    sys.argv[1:] = [re.sub(r"^protocol\.source=", "data=", argument) for argument in typed]
    asked_for_trace = "HYDRA_FULL_ERROR" in os.environ
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through to us instead of Hydra's own printout
    for place, argument in enumerate(sys.argv):
        if _DRY_RUN.fullmatch(argument):  # as a sweep of one: a single run starts by making its folder
            sys.argv.insert(place, "hydra.mode=MULTIRUN")
            break
    try:
        check_choices(sys.argv[1:])
        hydra.main(**BASE, config_path=str(CONF_DIR), config_name="config")(job)()
    except KeyboardInterrupt:
        child.report("failed", error="Interrupted.", explained=True)
        _finish()
        print("mmadapt: interrupted.", file=sys.stderr)
        sys.exit(130)
    except BusyError:
        child.report("busy")
        sys.exit(1)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        message = explain(error)
        child.report("failed", error=message, explained=True)
        if asked_for_trace:
            raise
        _finish()
        if not outcomes or isinstance(error, NoObjectiveError):
            print(f"mmadapt: {message}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        child.report("failed", error=f"{type(error).__name__}: {error}")
        if not outcomes:
            raise
        _finish()
        sys.exit(1)
    if outcomes:
        last = outcomes[-1]
        child.report(last.status, result=last.result if last.status == "debug" else None)
    _finish()


def _finish() -> None:
    if outcomes:
        from mmadapt.runs.summary import print_summary

        Guard("The summary")(print_summary, outcomes)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:  # nobody reads it: what is left in it must not change the exit code
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
