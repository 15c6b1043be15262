"""`surge-report PROJECT`: collect, fit, schedule, report."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypedDict

import typer

from surge_sweeps.cli.console import out, progress_bar, run, say, show_page, typer_app
from surge_sweeps.cli.summary import print_summary
from surge_sweeps.counting import counted
from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting import fit, measured_cells
from surge_sweeps.fitting.observables.plan import PROTOCOLS
from surge_sweeps.report import safe_name, write_report
from surge_sweeps.schedule import EXAMPLE_OVERHEAD, attach_schedules, check_schedule_options
from surge_sweeps.trackers import project_name, read_project
from surge_sweeps.trackers.base import ReadOptions, TableColumns

app = typer_app("From a project's runs to optimal learning rates, a verdict and a schedule.")


#: Beyond this the draws fill the memory and no interval gets better.
MAX_DRAWS = 100_000


class _Targets(TypedDict):
    """The options that `fit` and `measured_cells` share."""

    protocol: str | None
    target_losses: tuple[float, ...] | None
    horizon_steps: int | None


@dataclass(frozen=True)
class FitOptions:
    """What is asked of the runs: the options of `fit` and of the schedule, under their names there."""

    protocol: str | None = None
    target_losses: tuple[float, ...] | None = None
    horizon_steps: int | None = None
    n_draws: int = 2000
    seed: int = 0
    budget_examples: float | None = None
    example_overhead: float = EXAMPLE_OVERHEAD


@app.command()
def report(
    project: Annotated[str, typer.Argument(help="MLflow experiment, or the path of a CSV or Parquet table.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: reports/PROJECT.")
    ] = None,
    tracker: Annotated[str | None, typer.Option(help="Where the runs are: mlflow.")] = None,
    uri: Annotated[
        str | None,
        typer.Option(
            "--uri",
            help="MLflow tracking URI. Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder.",
        ),
    ] = None,
    loss_column: Annotated[
        str | None,
        typer.Option(
            help="Loss metric or column. Default: eval/loss if every run has it, else train/loss; of a table: loss,"
            " eval/loss or train/loss."
        ),
    ] = None,
    lr_column: Annotated[str, typer.Option(help="Parameter or column with the learning rate.")] = "lr",
    batch_column: Annotated[
        str, typer.Option(help="Parameter or column with the batch size.")
    ] = "batch_size",
    seed_column: Annotated[str, typer.Option(help="Parameter or column with the seed.")] = "seed",
    batch_unit: Annotated[
        str, typer.Option(help="What a batch counts: examples, sequences or tokens.")
    ] = "examples",
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Tables: columns that tell groups of runs apart, comma-separated. Default: those that look like"
            " hyper-parameters; '' puts all in one group."
        ),
    ] = None,
    step_column: Annotated[
        str | None, typer.Option(help="Tables: optimizer step, where the rows are points of loss curves.")
    ] = None,
    run_column: Annotated[
        str | None,
        typer.Option(
            help="Tables with --step-column: the run of each point. Default: the column run, if any."
        ),
    ] = None,
    steps_to_goal_column: Annotated[
        str | None, typer.Option(help="Tables: steps to a goal at a tuned learning rate, instead of a loss.")
    ] = None,
    gain_column: Annotated[
        str | None,
        typer.Option(help="Tables: loss decrease after a fixed number of steps, larger is better."),
    ] = None,
    optimal_lr_column: Annotated[
        str | None, typer.Option(help="Tables: a learning rate tuned elsewhere, one a batch size.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help=f"What is measured: {', '.join(PROTOCOLS)}; reach is the steps to a loss, gain the decrease over K"
            " further steps. Default: all that the runs allow."
        ),
    ] = None,
    horizon_steps: Annotated[
        int | None, typer.Option(help="K of the gain protocol. Default: the length of the branches.")
    ] = None,
    target_losses: Annotated[
        str | None, typer.Option(help="Losses to reach, comma-separated. Default: chosen from the curves.")
    ] = None,
    budget_examples: Annotated[
        float | None, typer.Option(help="Length of the training that the schedule is for, in batch units.")
    ] = None,
    example_overhead: Annotated[
        float, typer.Option(help="Share of extra examples that larger batches may cost.")
    ] = EXAMPLE_OVERHEAD,
    draws: Annotated[int, typer.Option(help="Bootstrap draws.", min=200, max=MAX_DRAWS)] = 2000,
    fit_seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    cache: Annotated[
        bool, typer.Option(help="Keep what was read, and read only what changed next time.")
    ] = True,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no chatter.")] = False,
) -> None:
    """Collect a project's runs, fit, recommend a schedule, write the report."""
    columns = TableColumns(
        group_by=_names(group_by),
        run=run_column,
        step=step_column,
        steps_to_goal=steps_to_goal_column,
        gain=gain_column,
        optimal_lr=optimal_lr_column,
    )
    cache_dir = _cache_folder() if cache else None
    page = write_project_report(
        project,
        ReadOptions(loss_column, lr_column, batch_column, seed_column, batch_unit, cache_dir, columns),
        FitOptions(
            protocol=protocol,
            target_losses=_losses(target_losses),
            horizon_steps=horizon_steps,
            n_draws=draws,
            seed=fit_seed,
            budget_examples=budget_examples,
            example_overhead=example_overhead,
        ),
        output=output,
        tracker=tracker,
        uri=uri,
        quiet=quiet,
    )
    if open_:
        show_page(page)


def write_project_report(
    project: str,
    read: ReadOptions | None = None,
    asked: FitOptions | None = None,
    *,
    output: Path | None = None,
    tracker: str | None = None,
    uri: str | None = None,
    quiet: bool = False,
) -> Path:
    """Do the work of `surge-report` and return the page's path.

    Args:
        project: an experiment or a table. read: how to read it; default with the cache. asked: what to fit.
        output: the folder; default reports/PROJECT. tracker, uri: where the experiment is.
    """
    asked = asked or FitOptions()
    check_schedule_options(asked.budget_examples, asked.example_overhead)
    folder = output if output is not None else Path("reports") / safe_name(project_name(project))
    if folder.exists() and not folder.is_dir():
        raise SurgeError(f"{folder} is a file.", "Name a folder with --output.")
    read = read or ReadOptions(cache_dir=_cache_folder())
    say(f"Collecting {project} ...", quiet=quiet)
    curves = read_project(project, read, tracker=tracker, uri=uri)
    say(f"  {_size(curves)}", quiet=quiet)
    paths = _fit_and_write(curves, asked, folder, quiet=quiet)
    page = next(path for path in paths if path.suffix == ".html")
    out.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    return page


def _fit_and_write(curves: LossCurves, asked: FitOptions, folder: Path, *, quiet: bool) -> list[Path]:
    targets: _Targets = {
        "protocol": asked.protocol,
        "target_losses": asked.target_losses,
        "horizon_steps": asked.horizon_steps,
    }
    with progress_bar("fitting", quiet=quiet):
        result = attach_schedules(
            fit(curves, **targets, n_draws=asked.n_draws, seed=asked.seed),
            budget_examples=asked.budget_examples,
            example_overhead=asked.example_overhead,
        )
        cells = measured_cells(curves, **targets)
    paths = write_report(result, cells, folder)
    if not quiet:
        print_summary(result, out)
    return paths


def _size(curves: LossCurves) -> str:
    runs = counted(len(curves.runs), "run")
    if curves.observable == "loss_curve":
        return f"{runs}, {len(curves.points):,} points of {curves.loss_name}"
    return f"{runs} with one value of {curves.loss_name} each"


def _names(text: str | None) -> tuple[str, ...] | None:
    """Column names as typed; one that holds a comma stands in double quotes."""
    if text is None:
        return None
    return tuple(name for row in csv.reader([text], skipinitialspace=True) for name in row if name.strip())


def _losses(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise SurgeError(
            f"--target-losses {text!r} are not numbers.", "Write them as 2.5,2.0,1.5."
        ) from error


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "surge-sweeps"


def main() -> None:
    """Entry point of `surge-report`."""
    run(app)


if __name__ == "__main__":
    main()
