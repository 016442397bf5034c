"""Processes that run the commands of a sweep: one for a single run, or one that takes run after run.

Starting Python, torch and CLIP takes ten seconds and more, and most runs on features take one. So the runs that
``launch.jobs`` computes side by side go to long-lived workers; each runs the very command that would be typed for
the run alone, `mmadapt.app.main`, in a process that has everything imported and the frozen towers at hand.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.global_hydra import GlobalHydra

from mmadapt.sweeps.devices import Lease
from mmadapt.sweeps.report import outcomes

REPORT = "MMADAPT_REPORT"
"""Environment variable: the file into which a process writes what became of its run."""
_WORKER = "MMADAPT_WORKER"
_report_to = os.environ.pop(REPORT, "")  # taken out at once: processes of this run must not report too
_answers = os.environ.pop(_WORKER, "")
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.05
_INHERITED = re.compile(
    r"LOCAL_RANK|WORLD_SIZE|MASTER_(ADDR|PORT)|NODE_RANK|GROUP_RANK|RANK|LOCAL_WORLD_SIZE|ROLE_\w+|PL_\w+|TORCHELASTIC_\w+"
)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment without what would make the child a rank of another run."""
    kept = {name: value for name, value in os.environ.items() if not _INHERITED.fullmatch(name)}
    return {**kept, **extra}


class Process(ABC):
    """A process of a sweep.

    Its output is kept aside. It has a session of its own: Ctrl-C reaches it once, through us, and stopping it stops
    its own workers too.

    Attributes:
        lease: Its devices, given back by `close`.
    """

    def __init__(
        self,
        command: Sequence[str],
        lease: Lease,
        extra: Mapping[str, str],
        *,
        fed: bool,
        handle: int | None = None,
    ) -> None:
        self.lease = lease
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE if fed else subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment({**lease.environment, **extra}),
            pass_fds=lease.handles if handle is None else (*lease.handles, handle),
            start_new_session=True,
        )

    @abstractmethod
    def ended(self) -> int | None:
        """Return the exit code of the command at hand, or None while it goes on."""

    @property
    def alive(self) -> bool:
        """Whether it can take another command."""
        return False

    def wait(self, seconds: float = float("inf")) -> int | None:
        """Wait for the end of the command, but not longer than that; return what `ended` does."""
        until = time.monotonic() + seconds
        while (code := self.ended()) is None and time.monotonic() < until:
            time.sleep(_POLL_SECONDS)
        return code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and those it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def printed(self) -> str:
        """Return what the command has printed."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def close(self) -> None:
        """Give the devices back; the process has ended, or is made to."""
        if self._process.poll() is None:
            self.signal(signal.SIGKILL)
            self._process.wait()
        self._output.close()
        self.lease.release()


class OwnProcess(Process):
    """A process that ends with its command: a run on several devices, whose ranks repeat ``sys.argv``, or isolated."""

    def __init__(self, command: Sequence[str], lease: Lease, report: Path) -> None:
        super().__init__(command, lease, {REPORT: str(report)}, fed=False)

    def ended(self) -> int | None:
        """Return the exit code of the process, or None while it goes on."""
        return self._process.poll()


class Worker(Process):
    """A process that runs commands one after another, given over its stdin, until that is closed.

    Args:
        lease: Its devices.
        threads: Threads of a core library, unless ``OMP_NUM_THREADS`` says otherwise.
    """

    def __init__(self, lease: Lease, threads: int) -> None:
        self._codes, theirs = os.pipe()
        shares = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)), _WORKER: str(theirs)}
        command = [sys.executable, "-m", "mmadapt"]
        super().__init__(command, lease, shares, fed=True, handle=theirs)
        os.close(theirs)

    def begin(self, arguments: Sequence[str], report: Path) -> None:
        """Start a command; its output begins anew."""
        self._output.seek(0)  # the place is shared with the process
        self._output.truncate()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died: `ended` says so
            self._process.stdin.write(json.dumps([list(arguments), str(report)]).encode() + b"\n")
            self._process.stdin.flush()

    def ended(self) -> int | None:
        """Return the exit code of the command, or of the process if that has died."""
        if select.select([self._codes], [], [], 0)[0] and (said := os.read(self._codes, 64)):
            return int(said)
        return self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether it can take another command."""
        return self._process.poll() is None

    def dismiss(self) -> None:
        """Let it end: there are no more commands."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def close(self) -> None:
        """Let it end, by force if that takes long, and give the devices back."""
        self.dismiss()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        super().close()
        os.close(self._codes)


def report_to() -> str:
    """Return the file into which this process writes what becomes of its run; empty if no sweep waits for it."""
    return _report_to


def is_worker() -> bool:
    """Return whether a sweep started this process to run its commands."""
    return bool(_answers)


def serve(main: Callable[[], None]) -> None:
    """Run the commands that come in, each as if this process had been started for it."""
    global _report_to
    os.set_inheritable(int(_answers), False)
    trace = os.environ.get("HYDRA_FULL_ERROR")  # `main` sets it
    with os.fdopen(int(_answers), "w") as answers, suppress(KeyboardInterrupt):
        for line in sys.stdin:
            sys.argv[1:], _report_to = json.loads(line)
            GlobalHydra.instance().clear()
            outcomes.clear()
            os.environ.pop("HYDRA_FULL_ERROR", None)
            if trace is not None:
                os.environ["HYDRA_FULL_ERROR"] = trace
            print(_exit_code(main), file=answers, flush=True)


def _exit_code(main: Callable[[], None]) -> int:
    code: object = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code if isinstance(code, int) else 1
