"""The table at the end of a command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from mmadapt.config.trainer_options import debug_note
from mmadapt.progress import RaisingConsole
from mmadapt.results import Score
from mmadapt.runs.job import Outcome


def print_summary(outcomes: Sequence[Outcome]) -> None:
    """Print the scores of a single run, or of a sweep its counts and what failed, and where results lie."""
    console = RaisingConsole(highlight=False, soft_wrap=True)
    counts = Counter(outcome.status for outcome in outcomes)
    if len(outcomes) == 1:
        if outcomes[0].result is not None:
            console.print(_scores(outcomes[0]))
            if counts["debug"]:
                console.print(f"This was {debug_note(outcomes[0].result.config['trainer'])}.")
                return
            note = " (finished before; nothing was computed)" if counts["skipped"] else ""
            console.print(f"Stored in {outcomes[0].run_dir}{note}")
        return
    left = "".join(f", {counts[status]} {status}" for status in ("debug", "not started") if counts[status])
    console.print(
        f"{len(outcomes)} jobs: {counts['done']} done, {counts['skipped']} already done, "
        f"{counts['failed']} failed{left}."
    )
    for status in ("failed", "not started"):
        for outcome in outcomes:
            if outcome.status == status:
                console.print(f"  {status}: {outcome.run_dir}", markup=False)


def _scores(outcome: Outcome) -> Table:
    result = outcome.result
    assert result is not None
    key = result.key
    table = Table(title=f"{key.method} · {key.data} · {key.clip} · {key.shots} shots · seed {key.seed}")
    for column in ("set", "top-1 %", "macro top-1 %", "top-5 %", "NLL", "ECE %", "images", "classes"):
        table.add_column(column, justify="left" if column == "set" else "right", no_wrap=column == "set")
    for name, score in result.scores.items():
        percent = (f"{100 * value:.2f}" for value in (score.top1, score.top1_macro, score.top5))
        images, classes = str(score.total), str(score.classes)
        calibration = (f"{score.nll:.4f}", f"{100 * score.ece:.2f}")
        table.add_row(_named(name, score), *percent, *calibration, images, classes)
    if len(result.scores) > 1:
        name, value = result.headline()
        table.add_section()
        table.add_row(name, f"{100 * value:.2f}")
    return table


def _named(name: str, score: Score) -> str:
    how = {"sliced": "logits sliced", "text_only": "text side only"}.get(score.classifier)
    return f"{name} ({how})" if how else name
