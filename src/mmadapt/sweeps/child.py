"""A run in a fresh process of its own: plain ``python -m mmadapt`` with the overrides of one job.

Lightning starts the further processes of a run by repeating ``sys.argv``. Inside a sweep that would repeat the
sweep: rank 1 walks through all jobs beside rank 0, and after a failure of one rank alone the two train different
jobs together. In a child that holds one job's overrides the repetition is right.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig

from mmadapt.config.paths import CONF_DIR
from mmadapt.results import FAILURE_FILE, Result, write_json
from mmadapt.runs.job import LOG_FILE, Outcome
from mmadapt.sweeps.devices import Lease

REPORT = "MMADAPT_REPORT"
"""Environment variable: the file into which a child writes what became of its run."""
_report_to = os.environ.pop(REPORT, "")  # taken out at once: processes of this run must not report too
CONSOLE_FILE = "console.log"
_INHERITED = re.compile(
    r"LOCAL_RANK|WORLD_SIZE|MASTER_(ADDR|PORT)|NODE_RANK|GROUP_RANK|RANK|LOCAL_WORLD_SIZE|ROLE_\w+|PL_\w+|TORCHELASTIC_\w+"
)
_OF_THE_SWEEP = re.compile(
    r"[+~]*(launch\.|hydra(\.(mode|run|sweep|sweeper|launcher|job\.(num|id))\b|/(launcher|sweeper)\b))"
)


def command(overrides: Sequence[str], hydra: DictConfig, run_dir: Path) -> list[str]:
    """Return the command of a single run.

    Args:
        overrides: The job's own overrides.
        hydra: The ``hydra`` node of the sweep: other sources of configuration and overrides of Hydra's are kept.
        run_dir: Folder of the run.
    """
    sources = {source.provider: source.path for source in hydra.runtime.config_sources}
    options = [f"--config-name={hydra.job.config_name}"] if hydra.job.config_name != "config" else []
    if sources.get("main", str(CONF_DIR)) != str(CONF_DIR):
        options.append(f"--config-path={sources['main']}")
    if "command-line" in sources:
        options.append(f"--config-dir={sources['command-line']}")
    kept = [line for line in (*overrides, *hydra.overrides.hydra) if not _OF_THE_SWEEP.match(line)]
    folder = QuotedString(str(run_dir).replace("${", r"\${"), Quote.single).with_quotes()
    return [
        sys.executable,
        "-m",
        "mmadapt",
        *options,
        *kept,
        f"hydra.run.dir={folder}",
        "hydra.mode=RUN",
    ]


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would make the child a rank of another run."""
    kept = {name: value for name, value in os.environ.items() if not _INHERITED.fullmatch(name)}
    return {**kept, **extra}


class Child:
    """One run in a process of its own.

    Its output is kept aside and shown only if it fails: then it lies in ``console.log`` of the run's folder. That of
    a debug run is printed at its end.
    """

    def __init__(self, command: Sequence[str], run_dir: Path, lease: Lease, *, debug: bool = False) -> None:
        self.run_dir, self.devices, self._debug = run_dir, lease.names, debug
        self._command, self._start, self._started = list(command), time.perf_counter(), time.time()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child
        handle, report = tempfile.mkstemp(prefix="mmadapt-", suffix=".json")
        os.close(handle)
        self._report = Path(report)
        self._interrupted = False
        # A session of its own: Ctrl-C reaches it once, through us, and stopping it stops its workers too.
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment({**lease.environment, REPORT: report}),
            pass_fds=lease.handles,
            start_new_session=True,
        )
        lease.hand_over(self._process.pid)

    def poll(self) -> Outcome | None:
        """Return what became of the run, or None while it goes on."""
        return None if self._process.poll() is None else self._outcome()

    def wait(self) -> Outcome:
        """Wait for the end; an exception meanwhile, such as Ctrl-C, stops the child."""
        try:
            self._process.wait()
        except BaseException:
            self.stop()
            raise
        return self._outcome()

    def interrupt(self) -> None:
        """Ask the child and its workers to end."""
        self._interrupted = True
        self._signal(signal.SIGINT)

    def stop(self, patience: float = 15.0) -> Outcome:
        """End the child: by Ctrl-C, and if that does not help within ``patience`` seconds, by force."""
        if not self._interrupted:
            self.interrupt()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        return self._outcome()

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return

    def _outcome(self) -> Outcome:
        seconds, code = time.perf_counter() - self._start, self._process.returncode
        report = self._read_report()
        status = report.get("status")
        if self._debug:
            print(self._printed(), flush=True)
        if code == 0 and status == "debug":
            self._output.close()
            result = Result.from_dict(report["result"], self.run_dir)
            return Outcome("debug", self.run_dir, seconds, result)
        if code == 0 and status in ("done", "skipped"):
            self._output.close()
            return Outcome(status, self.run_dir, seconds, Result.read(self.run_dir))
        if status == "busy":
            self._output.close()
            return Outcome("busy", self.run_dir, seconds)
        error = report.get("error") or ("Interrupted." if self._interrupted else _ending(code))
        if not report.get("explained") and not self._debug:
            self._keep(error)
        self._output.close()
        files = (self.run_dir / name for name in (FAILURE_FILE, LOG_FILE, CONSOLE_FILE))
        fresh = [str(file) for file in files if file.exists() and file.stat().st_mtime >= self._started]
        error += f" (see {', '.join(fresh)})" if fresh else ""
        return Outcome("failed", self.run_dir, seconds, error=error)

    def _keep(self, error: str) -> None:
        """Write what the child printed, and a note of the failure if it had no time for one."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        printed = self._printed()
        (self.run_dir / CONSOLE_FILE).write_text(printed, encoding="utf-8")
        note_file = self.run_dir / FAILURE_FILE
        if not note_file.exists() or note_file.stat().st_mtime < self._started:
            ending = f"KeyboardInterrupt: {error}" if self._interrupted else error
            note = {
                "error": ending,
                "overrides": self._command[3:],
                "traceback": printed[-4000:],
                "config": {},
            }
            write_json(note_file, note)

    def _printed(self) -> str:
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def _read_report(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._report.read_text(encoding="utf-8"))
        except ValueError:  # empty: the child ended before it could say anything
            return {}
        finally:
            self._report.unlink(missing_ok=True)
        return content


def report(status: str, *, error: str = "", explained: bool = False, result: Result | None = None) -> None:
    """Tell the sweep that started this process, if one did, what became of the run.

    Args:
        status: As in `mmadapt.runs.job.Outcome`.
        error: Why it failed.
        explained: The error says all there is to say, so the output need not be kept.
        result: That of a debug run, which lies in no file.
    """
    if _report_to:
        kept = None if result is None else asdict(result)
        content = {"status": status, "error": error, "explained": explained, "result": kept}
        Path(_report_to).write_text(json.dumps(content), encoding="utf-8")


def started_by_a_sweep() -> bool:
    """Return whether this process runs one job of a sweep that waits for it."""
    return bool(_report_to)


def _ending(code: int) -> str:
    if code >= 0:
        return f"The process ended with exit code {code}."
    names = {int(number): number.name for number in signal.Signals}
    killed = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"The process was ended by {names.get(-code, -code)}{killed}."
