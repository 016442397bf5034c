"""All benchmarks in their short form, one after the other: ``python -m benchmarks``, or ``make bench``.

About a quarter of an hour. Names of modules as arguments run these alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence

SHORT: dict[str, tuple[str, ...]] = {
    "start_up": (), "cache_search": (), "mm_adapter": (), "prompt_step": (), "tip_adapter_f": (),
    "overhead": (), "one_batch_epoch": (), "evaluation": (), "linear_probe_path": (), "growth": (), "encode_once": (),
    "first_encode": ("--images", "32"), "whole_sweep": ("--worlds", "1"),
}  # fmt: skip
"""Modules, and what makes them short where their defaults are not."""


def main(names: Sequence[str] = ()) -> None:
    """Run the benchmarks and print the table of the latest figures; the first that fails ends it."""
    start = time.monotonic()
    for number, name in enumerate(names or SHORT, 1):
        print(
            f"\n== {name} ({number} of {len(names or SHORT)}, after {time.monotonic() - start:.0f} s)",
            flush=True,
        )
        one_thread = {} if name == "first_encode" else {"OMP_NUM_THREADS": "1"}
        environment = {**os.environ, **one_thread}
        command = [sys.executable, "-m", f"benchmarks.{name}", *SHORT.get(name, ())]
        if subprocess.run(command, env=environment, check=False).returncode:
            sys.exit(f"{name} failed.")
    print(f"\n== {time.monotonic() - start:.0f} s in all\n", flush=True)
    subprocess.run([sys.executable, "-m", "benchmarks.table"], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
