"""The jobs of a sweep that are trained together (``launch.stack=true``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmadapt.launch.report import SweepReport
from mmadapt.launch.schedule import Job
from mmadapt.runner import Job as RunJob
from mmadapt.runner import Outcome, remove_empty

MOST = 64
"""Runs of one stack: enough to fill the cores, and a crash of the machine costs no more than these."""


def run_stacks(
    jobs: Sequence[Job],
    composed: Callable[[Job], RunJob],
    report: SweepReport,
    ended: Callable[[int, Outcome], None],
) -> list[Job]:
    """Run the jobs that can be trained with others; return those that are left, and those that are busy elsewhere.

    Args:
        jobs: The open jobs of a sweep.
        composed: Gives a job its configuration.
        report: Is told of every job that has ended.
        ended: Likewise, with the number of the job.
    """
    from mmadapt.stack.groups import groups
    from mmadapt.stack.launch import run_stack

    ready = [job for job in jobs if not job.cell.own_process]
    of = {job.cell.run_dir: job for job in ready}
    left = [
        job for job in jobs if job.cell.own_process or of[job.cell.run_dir] is not job
    ]  # a folder's second job
    for group in groups([composed(job) for job in of.values()]):
        if len(group) == 1:
            left.append(of[group[0].run_dir])
            continue
        for first in range(0, len(group), MOST):
            stack = group[first : first + MOST]
            for one, outcome in zip(stack, run_stack(stack), strict=True):
                if outcome.status == "busy":
                    left.append(of[one.run_dir])
                    continue
                if outcome.status == "failed":
                    remove_empty(one.run_dir)
                report.add(outcome)
                ended(of[one.run_dir].number, outcome)
    return left
