"""`surge-sweep`: write a sweep, launch it, see what is missing, try the whole flow on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.cli.console import run, say, show_page, typer_app
from surge_sweeps.cli.doctor import doctor
from surge_sweeps.cli.launch import Agents, Quiet, Tracker, Uri, launch, run_all
from surge_sweeps.cli.missing import missing
from surge_sweeps.cli.new import new
from surge_sweeps.cli.ui import ui
from surge_sweeps.trackers import open_tracker

app = typer_app("Learning rate x batch size sweeps: write them, launch them, finish them.")

app.command()(new)
app.command()(launch)
app.command()(missing)
app.command()(ui)
app.command()(doctor)


@app.command()
def demo(
    tracker: Tracker = "mlflow",
    uri: Uri = None,
    agents: Agents = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train, fit and report on real handwritten digits: the whole flow in a few minutes."""
    from surge_sweeps.cli.project_report import write_project_report
    from surge_sweeps.demo import PROJECT, plan_demo

    say("Planning: common checkpoints to branch from ...", quiet=quiet)
    run_all(plan_demo(Path(PROJECT)), open_tracker(tracker, PROJECT, uri), agents, quiet)
    page = write_project_report(PROJECT, tracker=tracker, uri=uri, quiet=quiet)
    if open_:
        show_page(page)


def main() -> None:
    """Entry point of `surge-sweep`."""
    run(app)
