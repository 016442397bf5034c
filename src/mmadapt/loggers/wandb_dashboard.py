"""``python -m mmadapt.loggers.wandb_dashboard --entity E --project P``: a saved W&B view of a project's runs.

Panels: accuracy against shots with the standard deviation over seeds, base against new classes, loss and
validation curves, cost. Needs ``pip install 'mmadapt[dashboard]'``. ``--dry-run FILE`` writes the
specification instead of saving it.

The specification has been built and checked, but never been saved to or seen on a W&B server.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmadapt.errors import UserError

VIEW = "mmadapt"


def build_workspace(entity: str, project: str, sets: Sequence[str], metric: str = "top1") -> Any:
    """Return the workspace, not yet saved.

    Curves over several runs need a common x-axis in the history: the last row of every run holds ``shots`` and
    its final scores, so lines grouped by method have one point per number of shots, the mean over seeds.

    Args:
        entity: User or team.
        project: Project of the runs.
        sets: Scored sets to show, such as ``test`` or ``base`` and ``new``.
        metric: Score to show.

    Raises:
        UserError: If wandb-workspaces is not installed.
    """
    try:
        reports: Any = importlib.import_module("wandb_workspaces.reports.v2")
        workspaces: Any = importlib.import_module("wandb_workspaces.workspaces")
    except ModuleNotFoundError as error:
        raise UserError(
            "The dashboard needs a package that is not installed: pip install 'mmadapt[dashboard]'."
        ) from error
    method = reports.Config("run.method")
    accuracy = [
        panel
        for name in sets
        for panel in (
            reports.LinePlot(
                title=f"{name}/{metric} by shots, mean ± std over seeds",
                x="shots",
                y=[f"{name}/{metric}"],
                title_x="shots per class",
                title_y=f"{name}/{metric}",
                groupby=method,
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                max_runs_to_show=1000,
            ),
            reports.BarPlot(
                title=f"{name}/{metric} by group, mean ± std over seeds",
                metrics=[f"{name}/{metric}"],
                groupby=reports.Metric("Group"),
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
                max_runs_to_show=1000,
            ),
        )
    ]
    tradeoff = [
        reports.ScatterPlot(
            title="Base against new classes",
            x=reports.SummaryMetric(f"base/{metric}"),
            y=reports.SummaryMetric(f"new/{metric}"),
        ),
        reports.ScatterPlot(
            title="Accuracy against trainable parameters",
            x=reports.SummaryMetric("cost/trainable_params"),
            y=reports.SummaryMetric(f"{sets[0]}/{metric}"),
            log_x=True,
        ),
    ]
    curves = [
        reports.LinePlot(
            title=name,
            x="epoch",
            y=[name],
            groupby=reports.Metric("Group"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
        )
        for name in ("train/loss", f"val/{metric}")
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=VIEW,
        sections=[
            workspaces.Section(name="Accuracy", panels=accuracy, is_open=True),
            workspaces.Section(name="Generalisation and cost", panels=tradeoff, is_open=True),
            workspaces.Section(name="Curves", panels=curves),
        ],
    )


def specification(workspace: Any) -> dict[str, Any]:
    """Return the JSON that W&B would store as the view."""
    content: dict[str, Any] = workspace._model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return content


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; mistakes end as one message and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m mmadapt.loggers.wandb_dashboard", description=__doc__)
    parser.add_argument("--entity", required=True, help="user or team on W&B")
    parser.add_argument("--project", default="mmadapt", help="project of the runs (default: mmadapt)")
    parser.add_argument("--sets", nargs="+", default=["test", "base", "new"], help="scored sets to show")
    parser.add_argument("--metric", default="top1", choices=["top1", "top1_macro", "nll", "ece"])
    parser.add_argument("--dry-run", type=Path, metavar="FILE", help="write the specification, save nothing")
    options = parser.parse_args(arguments)
    try:
        workspace = build_workspace(options.entity, options.project, options.sets, options.metric)
        if options.dry_run is not None:
            text = json.dumps(specification(workspace), indent=1)
            options.dry_run.parent.mkdir(parents=True, exist_ok=True)
            options.dry_run.write_text(text + "\n", encoding="utf-8")
            print(f"The view's specification is in {options.dry_run}; nothing was sent to W&B.")
            return
        from mmadapt.loggers.wandb_run import has_api_key

        if not has_api_key():
            raise UserError(
                "Saving a view needs an API key. Type wandb login, or use --dry-run FILE to see what would be saved."
            )
        workspace.save_as_new_view()
        print(f"Saved: {workspace.url}")
    except UserError as error:
        print(f"mmadapt: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
