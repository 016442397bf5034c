"""Replaces the experiment, torch and all, by one that notes that it ran; for tests of how runs are started.

STUB_LOG: file to note runs in. STUB_SECONDS: how long one takes. STUB_FAIL, STUB_KILL: seeds that raise, or whose
process is killed. STUB_VAL=ratio: an accuracy on val that is highest at method.ratio=0.5; else there is none.
"""

import os
import signal
import sys
import time
import types
from pathlib import Path

if "STUB_LOG" in os.environ:

    def run(config, key, run_dir, loggers=(), coop_run=None):
        from mmadapt.config.identity import fingerprint
        from mmadapt.results import Result, Score

        start = time.time()
        note = Path(os.environ["STUB_LOG"])
        if f"{key.seed}" in os.environ.get("STUB_FAIL", "").split(","):
            raise RuntimeError("seed of trouble")
        if f"{key.seed}" in os.environ.get("STUB_KILL", "").split(","):
            os.kill(os.getpid(), signal.SIGKILL)
        with note.open("a") as stream:
            stream.write(f"begin {key.method} {key.seed}\n")
        time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
        words = (
            key.method,
            key.seed,
            os.environ.get("CUDA_VISIBLE_DEVICES") or "-",
            start,
            time.time(),
            os.getpid(),
        )
        with note.open("a") as stream:
            stream.write("end " + " ".join(map(str, words)) + "\n")
        score = Score(top1=0.5, top1_macro=0.5, top5=1.0, nll=1.0, ece=0.1, correct=1, total=2, classes=2)
        selection = {"rule": "last"}
        if os.environ.get("STUB_VAL") == "ratio":
            selection["val_top1"] = 1 - abs(config["method"]["ratio"] - 0.5)
        return Result(key, {"test": score}, selection, {}, {"train_seconds": 3.0}, fingerprint(config),
                      dict(config))  # fmt: skip

    module = types.ModuleType("mmadapt.runs.experiment")
    module.run = run
    sys.modules["mmadapt.runs.experiment"] = module

    class Silent:
        """Stands for the loggers, which import Lightning."""

        all = ()

        def __init__(self, *opened):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def finish(self, result):
            pass

    silent = types.ModuleType("mmadapt.loggers.guard")
    silent.open_loggers = Silent
    sys.modules["mmadapt.loggers.guard"] = silent
