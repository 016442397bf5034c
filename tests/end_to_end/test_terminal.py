"""Runs in a terminal: the results are those of a run into a file, and nothing that is drawn can cost one."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from tests.support import ROOT
from tests.support.launching import Command

from mmadapt import app, progress
from mmadapt.config.hydra_versions import BASE
from mmadapt.config.paths import CONF_DIR
from mmadapt.config.schema import register_resolvers
from mmadapt.errors import UserError
from mmadapt.loggers.guard import Guarded
from mmadapt.progress import Guard, ProgressBar, stop_display
from mmadapt.results import Result, RunKey, Score
from mmadapt.runs.job import Outcome, execute
from mmadapt.sweeps.report import SweepReport, outcomes

register_resolvers()
COLOUR = re.compile(r"\x1b\[(\d+;)*([34]\d|9\d)(;\d+)*m")
TERMINAL = {"TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
CTRL_C = b"\x03"
AT_ONCE = "from mmadapt import app, progress; progress.PATIENCE_SECONDS = 0; app.main()"
UNSET = ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


class Terminal:
    """A pseudo-terminal and all that was written to it."""

    def __init__(self, columns=80):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.columns, self._chunks = columns or 80, []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        try:
            while chunk := os.read(self.master, 1 << 16):
                self._chunks.append(chunk)
        except OSError:  # so Linux says that nobody has it open any more
            return

    def end(self):
        os.close(self.slave)
        self._reader.join()
        os.close(self.master)

    @property
    def written(self):
        return b"".join(self._chunks).decode()

    @property
    def screen(self):
        """What is left to read, as far as Rich's few control sequences go."""
        lines, row, column = [""], 0, 0
        for token in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|[^\x1b]", self.written):
            if token == "\r":
                column = 0
            elif token == "\x1b[2K":
                lines[row] = ""
            elif token[0] == "\x1b":
                row -= int(token[2:-1]) if token[-1] == "A" else 0
            else:
                if token == "\n" or column == self.columns:
                    row, column = row + 1, 0
                    lines += [""] * (row + 1 - len(lines))
                if token != "\n":
                    lines[row] = lines[row].ljust(column)[:column] + token + lines[row][column + 1 :]
                    column += 1
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def tidy(self):
        """Whether every bar is gone and the cursor is back."""
        gone = not re.search(r"(sweep|encoding|training).*[━╸]", self.screen)
        return gone and self.written.count("\x1b[?25l") == self.written.count("\x1b[?25h")


@contextmanager
def streams(stream):
    """Make a stream stdout and stderr of this process, until the block ends."""
    with pytest.MonkeyPatch.context() as patch, stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        yield
        assert (sys.stdout, sys.stderr) == (stream, stream), "the display gave them back"


@contextmanager
def in_terminal():
    terminal = Terminal()
    try:
        with streams(open(os.dup(terminal.slave), "w")):
            yield terminal
    finally:
        terminal.end()


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Bars at once, and nothing that another test broke."""
    for name, value in {**TERMINAL, "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(progress, "PATIENCE_SECONDS", 0)
    monkeypatch.setattr(progress, "_REDRAW_SECONDS", 0)
    monkeypatch.setattr(ProgressBar, "guard", Guard("The progress bar", leave=stop_display))
    monkeypatch.setattr(progress, "_LINES", {name: Guard(name) for name in ("stdout", "stderr")})
    outcomes.clear()
    yield
    outcomes.clear()
    assert ProgressBar.shared is None


def finished(seed=1):
    score = Score(0.5, 0.5, 1.0, 1.0, 0.1, 1, 2, 2)
    key = RunKey("t", "few_shot", "tiny", "shapes", "zero_shot", 1, seed)
    return Outcome("done", Path(f"seed{seed}"), 1.0, Result(key, {"test": score}, {}, {}, {}, "", {}))


def sweep(*seeds):
    """Report a sweep of jobs that encode and train."""
    with SweepReport(len(seeds)) as report:
        for seed in seeds:
            for label in ("encoding", "training"):
                bar = ProgressBar(label, 3)
                bar.advance()
                bar.close()
            report.add(finished(seed))
    return [outcome.status for outcome in outcomes]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_bar_below_that_of_a_sweep_may_be_closed_twice(caplog):
    with in_terminal() as terminal, SweepReport(2) as report:
        bar = ProgressBar("training", 3)
        bar.advance()
        bar.close()
        bar.close()
        bar.advance()
        report.add(finished())
    assert "training" in terminal.written
    assert terminal.screen.splitlines() == ["[1/2] seed1: top-1 50.00 % (1.0 s)"]
    assert terminal.tidy()
    assert warnings(caplog) == []


def test_a_sweep_in_other_processes_shows_that_it_goes_on_and_counts_what_runs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mmadapt.sweeps.report.time.monotonic", lambda: now[0])
    with in_terminal() as terminal, SweepReport(4, jobs=2) as report:
        for now[0] in (0.5, 1.5, 65.0):
            report.follow([now[0], now[0] - 0.5])
        now[0] = 80.0
        report.add(replace(finished(), seconds=80.0))
        report.add(replace(finished(2), seconds=80.0))
        now[0] = 100.0
        report.follow([20.0, 20.0])
    assert "2 running for 1.5 s" not in terminal.written, "in whole seconds"
    assert "2 running for 65 s, 4 left" in terminal.written
    assert "2 running for 20 s, 2 left, about 60 s left" in terminal.written


@pytest.mark.parametrize("first", ["encoding", "training"])
def test_two_bars_share_one_display_whichever_ends_first(first, caplog):
    with in_terminal() as terminal:
        bars = {name: ProgressBar(name, 3) for name in ("encoding", "training")}
        for bar in bars.values():
            bar.advance()
        display = ProgressBar.shared
        assert [task.description for task in display.tasks] == ["encoding", "training"]
        print("a line above them")
        bars.pop(first).close()
        (last,) = bars.values()
        last.advance()
        assert ProgressBar.shared is display
        last.close()
    assert terminal.screen.splitlines() == ["a line above them"]
    assert terminal.tidy()
    assert warnings(caplog) == []


def test_a_terminal_without_a_cursor_gets_the_lines_of_a_file(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with in_terminal() as terminal:
        sweep(1, 2)
    assert "\x1b" not in terminal.written
    assert re.match(r"\[1/2\] seed1: top-1 50.00 % \(1.0 s\), about .* left\r\n\[2/2\]", terminal.written)


def test_a_bar_that_cannot_be_drawn_costs_one_warning(monkeypatch, caplog):
    def fail(*_):
        raise ZeroDivisionError("no speed")

    monkeypatch.setattr(progress._Rate, "render", fail)
    with in_terminal() as terminal:
        assert sweep(1, 2) == ["done", "done"]
    assert warnings(caplog) == [
        "The progress bar stopped with ZeroDivisionError: no speed. The run and its result are not affected."
    ]
    assert "[2/2] seed2: top-1 50.00 % (1.0 s)" in terminal.screen
    assert terminal.tidy()


def test_ctrl_c_is_no_error_of_a_bar(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with in_terminal() as terminal:
        bar = ProgressBar("training", 3)
        bar.advance()
        with monkeypatch.context() as patch:
            patch.setattr(progress._Rate, "render", interrupt)
            with pytest.raises(KeyboardInterrupt):
                bar.advance()
        bar.close()
    assert terminal.tidy()


def test_a_terminal_that_closes_costs_a_sweep_nothing(caplog):
    master, slave = pty.openpty()
    with streams(open(slave, "w")):
        with SweepReport(3) as report:
            bar = ProgressBar("training", 3)
            bar.advance()
            os.close(master)
            bar.advance()
            bar.close()
            report.add(finished())
            report.add(Outcome("failed", Path("seed2"), 0.0, error="trouble"))
        app._finish()
    assert [outcome.status for outcome in outcomes] == ["done", "failed"]
    assert {said.split(": [Errno 5]")[0] for said in warnings(caplog)} == {
        f"{what} stopped with OSError" for what in ("The progress bar", "stdout", "stderr", "The summary")
    }
    assert len(warnings(caplog)) == 4


def test_a_pipe_that_nobody_reads_costs_a_sweep_nothing(caplog):
    read, write = os.pipe()
    os.close(read)
    with streams(open(write, "w")):
        assert sweep(1, 2) == ["done", "done"]
        app._finish()
    assert [said.split(": [Errno 32]")[0] for said in warnings(caplog)] == [
        f"{what} stopped with BrokenPipeError" for what in ("stdout", "The summary")
    ]


def test_a_line_that_cannot_be_made_costs_a_sweep_nothing(caplog, monkeypatch):
    monkeypatch.setattr(Result, "headline", lambda _: 1 / 0)
    assert sweep(1, 2) == ["done", "done"]
    (said,) = warnings(caplog)
    assert said.startswith("The line of a job stopped with ZeroDivisionError")


def test_a_slow_first_step_is_no_error(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = ProgressBar("unpacking", 3)
    now = 11.0
    bar.advance(0)
    bar.advance()
    assert capsys.readouterr().err == "unpacking: 1/3, 0/s, 22 s left\n"


def test_a_logger_that_cannot_name_itself_costs_one_warning(caplog):
    class Remote:
        @property
        def name(self):
            raise ConnectionError("no route to host")

    logger = Guarded(Remote(), "MLflow")
    assert [logger.name, logger.name] == [None, None]
    (said,) = warnings(caplog)
    assert said.startswith("MLflow stopped with ConnectionError: no route to host")


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_tree):
    counts = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "abc"}
    return write_tree(tmp_path_factory.mktemp("images") / "toys", counts)


def train(folder, images, *more):
    words = ["clip=tiny", "data=folder", f"data.root={images}", "shots=1", "trainer=cpu", "method=clip_adapter",
             f"paths.features={folder / 'features'}", f"paths.results={folder}", "method.epochs=3",
             *more]  # fmt: skip
    with initialize_config_dir(str(CONF_DIR), **BASE):
        cfg = compose("config", overrides=words)
    choices = {
        "clip": "tiny",
        "data": "folder",
        "protocol": "few_shot",
        "trainer": "cpu",
        "method": "clip_adapter",
    }
    return execute(cfg, choices, folder / "run", words)


def test_a_run_that_draws_bars_has_the_result_of_one_that_does_not(tmp_path, images, caplog):
    plain = train(tmp_path / "plain", images)
    with in_terminal() as terminal:
        alone = train(tmp_path / "alone", images)
        with SweepReport(2) as report:
            with pytest.raises(UserError, match=r"became|not finite"):
                train(tmp_path / "failing", images, "method.optimizer.lr=1e30")
            assert [task.description for task in ProgressBar.shared.tasks] == ["sweep"]
            swept = train(tmp_path / "swept", images)
            report.add(swept)
    assert plain.result.scores == alone.result.scores == swept.result.scores
    assert Result.read(tmp_path / "swept" / "run") == swept.result
    for label in ("encoding", "training ClipAdapter"):
        assert label in terminal.written
    assert terminal.tidy(), terminal.screen
    assert warnings(caplog) == []


def start(line, terminal, cwd, **environment):
    """Start a command as the leader of a session that the terminal controls."""
    given = {name: value for name, value in os.environ.items() if name not in (*UNSET, *TERMINAL)}
    return subprocess.Popen(
        line, cwd=cwd, stdin=terminal.slave, stdout=terminal.slave, stderr=terminal.slave, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0), env={**given, **TERMINAL, **environment},
    )  # fmt: skip


def wait_for(seen):
    deadline = time.monotonic() + 120
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def numbers(folder):
    """Return what the results below a folder hold of training and scoring, by run."""
    found = {}
    for path in sorted(folder.rglob("result.json")):
        stored = json.loads(path.read_text())
        found[stored["key"]["seed"]] = [stored[key] for key in ("key", "scores", "selection", "fingerprint")]
    return found


JOBS = ("-m", "trainer=cpu", "method=zero_shot", "clip=vit_b16", "data=shapes", "seed=1,2,3")


@pytest.fixture(scope="module")
def into_a_file(tmp_path_factory):
    """A sweep of a stub with a failing job, its output in files."""
    command = Command(tmp_path_factory.mktemp("file"))
    assert command(*JOBS, STUB_FAIL="2").returncode == 1
    return command.cwd


@pytest.mark.parametrize(
    ("columns", "more", "environment"),
    [
        (80, [], {}),
        (80, ["launch.jobs=2"], {}),
        (20, [], {}),
        (1, [], {}),
        (0, [], {}),
        (80, [], {"TERM": "dumb"}),
        (80, [], {"NO_COLOR": "1"}),
    ],
    ids=["plain", "jobs", "narrow", "one column", "no size", "dumb", "no colour"],
)
def test_a_sweep_with_a_failing_job_ends_as_into_a_file(columns, more, environment, into_a_file, tmp_path):
    terminal = Terminal(columns)
    command = Command(tmp_path)
    line = [sys.executable, "-m", "mmadapt", *JOBS, *more]
    code = start(line, terminal, tmp_path, **command.environment, STUB_FAIL="2", **environment).wait(120)
    terminal.end()
    assert code == 1, terminal.screen
    assert numbers(tmp_path) == numbers(into_a_file)
    assert list(numbers(tmp_path)) == [1, 3]
    assert terminal.tidy()
    assert "stopped with" not in terminal.written, "no warning"
    read = "".join(terminal.screen.split())  # a narrow window breaks lines anywhere
    for line in ("seed1: top-1 50.00 %", "seed2: failed.", "seed of trouble", "seed3: top-1 50.00 %",
                 "3 jobs: 2 done, 0 already done, 1 failed."):  # fmt: skip
        assert "".join(line.split()) in read
    assert ("\x1b" in terminal.written) == ("TERM" not in environment)
    assert bool(COLOUR.search(terminal.written)) == (columns != 1 and not environment)


@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_ends_a_sweep_and_leaves_the_terminal_in_order(jobs, tmp_path):
    terminal, command = Terminal(), Command(tmp_path)
    line = [sys.executable, "-m", "mmadapt", *JOBS, f"launch.jobs={jobs}"]
    sweep = start(line, terminal, tmp_path, **command.environment, STUB_SECONDS="100")
    wait_for(lambda: command.log.exists() and command.log.read_text().count("begin") == jobs)
    os.write(terminal.master, CTRL_C)
    code = sweep.wait(120)
    terminal.end()
    assert code == 130, terminal.screen
    assert terminal.tidy()
    assert f"3 jobs: 0 done, 0 already done, {jobs} failed, {3 - jobs} not started." in terminal.screen
    assert terminal.screen.endswith("mmadapt: interrupted.")
    assert numbers(tmp_path) == {}


@pytest.mark.slow
def test_real_runs_in_a_terminal_have_the_results_of_runs_into_a_file(tmp_path):
    """Encoding and training draw their bars: a sweep, a single run, and one that Ctrl-C ends in its training."""
    trained = [
        "method=clip_adapter",
        "method.views=0",
        "method.epochs=20",
        "shots=4",
        "clip=tiny",
        "trainer=cpu",
    ]
    lines = {
        "file": ["-m", *trained, "seed=1,2"],
        "sweep": ["-m", *trained, "seed=1,2"],
        "single": [*trained, "seed=1"],
        "interrupted": [*trained, "seed=1", "method.epochs=1000000"],
    }
    terminals, codes = {}, {}
    for name, words in lines.items():
        (tmp_path / name).mkdir()
        given = {"MMADAPT_FEATURES": str(tmp_path / name / "features"), "PYTHONPATH": str(ROOT / "src")}
        line = [sys.executable, "-c", AT_ONCE, *words]
        if name == "file":
            with (tmp_path / "output").open("w") as output:
                codes[name] = subprocess.run(
                    line, cwd=tmp_path / name, env={**os.environ, **given}, stdout=output, stderr=output, check=False
                ).returncode  # fmt: skip
            continue
        terminal = terminals[name] = Terminal(100)
        process = start(line, terminal, tmp_path / name, **given)
        if name == "interrupted":
            wait_for(lambda seen=terminal: "training ClipAdapter" in seen.written)
            os.write(terminal.master, CTRL_C)
        codes[name] = process.wait(300)
        terminal.end()
    assert codes == {"file": 0, "sweep": 0, "single": 0, "interrupted": 130}, (
        tmp_path / "output"
    ).read_text()
    found = {name: numbers(tmp_path / name) for name in lines}
    assert list(found["file"]) == [1, 2]
    assert found["sweep"] == found["file"]
    assert found["single"] == {1: found["file"][1]}
    assert found["interrupted"] == {}
    for terminal in terminals.values():
        assert "encoding" in terminal.written
        assert "training ClipAdapter" in terminal.written
        assert terminal.tidy(), terminal.screen
        assert "stopped with" not in terminal.written, "no warning"
    assert "Stored in" in terminals["single"].screen
    assert terminals["interrupted"].screen.endswith("mmadapt: interrupted.")
