"""`surge-sweep`: write a sweep, launch it anywhere, see how far it is, try the whole flow on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.cli.branch import branch
from surge_sweeps.cli.console import run, say, show_page, typer_app
from surge_sweeps.cli.data import data
from surge_sweeps.cli.doctor import doctor
from surge_sweeps.cli.import_ import import_
from surge_sweeps.cli.launch import launch, run_all
from surge_sweeps.cli.launch_options import Agents, Quiet, Tracker, Uri
from surge_sweeps.cli.launches import cancel, launches, logs
from surge_sweeps.cli.missing import missing
from surge_sweeps.cli.new import new
from surge_sweeps.cli.settings import engines
from surge_sweeps.cli.status import status
from surge_sweeps.cli.ui import ui
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.launch.target import Target
from surge_sweeps.trackers import open_tracker

app = typer_app("Learning rate x batch size sweeps: write them, launch them, finish them.")

app.command()(new)
app.command()(data)
app.command()(branch)
app.command()(launch)
app.command()(status)
app.command()(missing)
app.command()(launches)
app.command()(cancel)
app.command()(logs)
app.command()(engines)
app.command("import")(import_)
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
    sweeps = plan_demo(Path(PROJECT))
    store = open_tracker(tracker, PROJECT, uri)
    target = Target.of(PROJECT, tracker, uri)
    run_all(sweeps, target, store, LocalLauncher(store, agents), packed=True, quiet=quiet)
    page = write_project_report(PROJECT, tracker=tracker, uri=uri, quiet=quiet)
    if open_:
        show_page(page)


def main() -> None:
    """Entry point of `surge-sweep`."""
    run(app)
