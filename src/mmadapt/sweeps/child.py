"""A run in another process: plain ``python -m mmadapt`` with the overrides of one job.

Lightning starts the further processes of a run by repeating ``sys.argv``. Inside a sweep that would repeat the
sweep: rank 1 walks through all jobs beside rank 0, and after a failure of one rank alone the two train different
jobs together. In a child that holds one job's overrides the repetition is right.
"""

from __future__ import annotations

import json
import os
import re
import signal
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
from mmadapt.sweeps.devices import DevicePool
from mmadapt.sweeps.options import LaunchOptions
from mmadapt.sweeps.worker import OwnProcess, Process, Worker, report_to

CONSOLE_FILE = "console.log"
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


class Child:
    """One run in another process.

    Its output is shown only if it fails: then it lies in ``console.log`` of the run's folder. That of a debug run is
    printed at its end.

    Args:
        command: See `command`.
        run_dir: Folder of the run.
        process: Where it runs.
        report: File into which the process writes what became of the run; it is removed.
        debug: It is a debug run.
    """

    def __init__(
        self, command: Sequence[str], run_dir: Path, process: Process, report: Path, *, debug: bool = False
    ) -> None:
        self.run_dir, self.process, self._debug = run_dir, process, debug
        self._command, self._report = list(command), report
        self._start, self._started = time.perf_counter(), time.time()
        self._interrupted = False

    def poll(self) -> Outcome | None:
        """Return what became of the run, or None while it goes on."""
        code = self.process.ended()
        return None if code is None else self._outcome(code)

    def wait(self) -> Outcome:
        """Wait for the end; an exception meanwhile, such as Ctrl-C, stops the run."""
        try:
            code = self.process.wait()
        except BaseException:
            self.stop()
            raise
        return self._outcome(code)

    def interrupt(self) -> None:
        """Ask the run to end."""
        self._interrupted = True
        self.process.signal(signal.SIGINT)

    def stop(self, patience: float = 15.0) -> Outcome:
        """End the run: by Ctrl-C, and if that does not help within ``patience`` seconds, by force."""
        if not self._interrupted:
            self.interrupt()
        code = self.process.wait(patience)
        if code is None:
            self.process.signal(signal.SIGKILL)
            code = self.process.wait()
        return self._outcome(code)

    def _outcome(self, code: int | None) -> Outcome:
        seconds = time.perf_counter() - self._start
        report = self._read_report()
        status = report.get("status")
        if self._debug:
            print(self.process.printed(), flush=True)
        if code == 0 and status == "debug":
            return Outcome("debug", self.run_dir, seconds, Result.from_dict(report["result"], self.run_dir))
        if code == 0 and status in ("done", "skipped"):
            return Outcome(status, self.run_dir, seconds, Result.read(self.run_dir))
        if status == "busy":
            return Outcome("busy", self.run_dir, seconds)
        error = report.get("error") or ("Interrupted." if self._interrupted else _ending(code or 0))
        if not report.get("explained") and not self._debug:
            self._keep(error)
        files = (self.run_dir / name for name in (FAILURE_FILE, LOG_FILE, CONSOLE_FILE))
        fresh = [str(file) for file in files if file.exists() and file.stat().st_mtime >= self._started]
        error += f" (see {', '.join(fresh)})" if fresh else ""
        return Outcome("failed", self.run_dir, seconds, error=error)

    def _keep(self, error: str) -> None:
        """Write what the run printed, and a note of the failure if it had no time for one."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        printed = self.process.printed()
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

    def _read_report(self) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads(self._report.read_text(encoding="utf-8"))
        except ValueError:  # empty: the process ended before it could say anything
            return {}
        finally:
            self._report.unlink(missing_ok=True)
        return content


class Processes:
    """The processes of a sweep.

    Args:
        options: How many may run side by side, on which devices.
        hydra: The ``hydra`` node of the sweep.
    """

    def __init__(self, options: LaunchOptions, hydra: DictConfig) -> None:
        self._hydra, self._jobs, self.devices = hydra, options.jobs, DevicePool(options)
        self._idle: list[tuple[str, Worker]] = []
        self._kinds: dict[Process, str] = {}

    def start(
        self, overrides: Sequence[str], run_dir: Path, trainer: Mapping[str, Any], *, own: bool, debug: bool
    ) -> Child | None:
        """Start a run, or return None while too few devices are free.

        Args:
            overrides: The job's own overrides.
            run_dir: Folder of the run.
            trainer: That part of its configuration.
            own: It needs a process of its own.
            debug: It is a debug run.

        Raises:
            UserError: If the run asks for more devices than there are.
        """
        line, kind = command(overrides, self._hydra, run_dir), self.devices.kind(trainer)
        process: Process | None = None if own else self._take_idle(kind)
        lease = None
        if process is None:
            lease = self.devices.take(trainer)
            if self._idle:  # they hold devices and memory for runs of another kind
                if lease is not None:
                    lease.release()
                self.close()
                lease = self.devices.take(trainer)
            if lease is None:
                return None
        handle, name = tempfile.mkstemp(prefix="mmadapt-", suffix=".json")
        os.close(handle)
        report = Path(name)
        if lease is not None:
            process = OwnProcess(line, lease, report) if own else Worker(lease, self._threads())
            self._kinds[process] = kind
        assert process is not None
        if isinstance(process, Worker):
            process.begin(line[3:], report)
        return Child(line, run_dir, process, report, debug=debug)

    def take_back(self, child: Child) -> None:
        """Keep the process of a run that has ended for another one, if it can take one."""
        process = child.process
        if isinstance(process, Worker) and process.alive:
            self._idle.append((self._kinds[process], process))
        else:
            process.close()
            del self._kinds[process]

    def close(self) -> None:
        """End the workers that have nothing to do."""
        for _, worker in self._idle:
            worker.dismiss()
        for _, worker in self._idle:
            worker.close()
            del self._kinds[worker]
        self._idle = []

    def _take_idle(self, kind: str) -> Worker | None:
        for entry in self._idle:
            if entry[0] == kind:
                self._idle.remove(entry)
                return entry[1]
        return None

    def _threads(self) -> int:
        return max((os.cpu_count() or 1) // self._jobs, 1)


def report(status: str, *, error: str = "", explained: bool = False, result: Result | None = None) -> None:
    """Tell the sweep that started this process, if one did, what became of the run.

    Args:
        status: As in `mmadapt.runs.job.Outcome`.
        error: Why it failed.
        explained: The error says all there is to say, so the output need not be kept.
        result: That of a debug run, which lies in no file.
    """
    if file := report_to():
        kept = None if result is None else asdict(result)
        content = {"status": status, "error": error, "explained": explained, "result": kept}
        Path(file).write_text(json.dumps(content), encoding="utf-8")


def started_by_a_sweep() -> bool:
    """Return whether this process runs one job of a sweep that waits for it."""
    return bool(report_to())


def _ending(code: int) -> str:
    if code >= 0:
        return f"The process ended with exit code {code}."
    names = {int(number): number.name for number in signal.Signals}
    killed = ", as the system does when memory runs out" if -code == signal.SIGKILL else ""
    return f"The process was ended by {names.get(-code, -code)}{killed}."
