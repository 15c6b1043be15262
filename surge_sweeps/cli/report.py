"""`surge-report PROJECT`: collect, fit, schedule, report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.cli.console import out, progress_bar, run, say, show_page, typer_app
from surge_sweeps.cli.summary import print_summary
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting import fit, measured_cells
from surge_sweeps.report import safe_name, write_report
from surge_sweeps.schedule import EXAMPLE_OVERHEAD, attach_schedules
from surge_sweeps.trackers import collect

app = typer_app("From a project's runs to optimal learning rates, a verdict and a schedule.")


@app.command()
def report(
    project: Annotated[str, typer.Argument(help="MLflow experiment.")],
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
        str | None, typer.Option(help="Loss metric. Default: eval/loss if every run has it, else train/loss.")
    ] = None,
    lr_column: Annotated[str, typer.Option(help="Parameter with the learning rate.")] = "lr",
    batch_column: Annotated[str, typer.Option(help="Parameter with the batch size.")] = "batch_size",
    seed_column: Annotated[str, typer.Option(help="Parameter with the seed.")] = "seed",
    batch_unit: Annotated[
        str, typer.Option(help="What a batch counts: examples, sequences or tokens.")
    ] = "examples",
    protocol: Annotated[
        str | None,
        typer.Option(help="reach (steps to a loss) or gain (decrease over K further steps). Default: both."),
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
    draws: Annotated[int, typer.Option(help="Bootstrap draws.", min=200)] = 2000,
    fit_seed: Annotated[int, typer.Option(help="Seed of the bootstrap.", min=0)] = 0,
    cache: Annotated[
        bool, typer.Option(help="Keep what was read, and read only what changed next time.")
    ] = True,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no chatter.")] = False,
) -> None:
    """Collect a project's runs, fit, recommend a schedule, write the report."""
    page = write_project_report(
        project,
        output=output,
        tracker=tracker,
        uri=uri,
        loss=loss_column,
        lr=lr_column,
        batch_size=batch_column,
        seed=seed_column,
        batch_unit=batch_unit,
        protocol=protocol,
        horizon_steps=horizon_steps,
        target_losses=_losses(target_losses),
        budget_examples=budget_examples,
        example_overhead=example_overhead,
        draws=draws,
        fit_seed=fit_seed,
        cache=cache,
        quiet=quiet,
    )
    if open_:
        show_page(page)


def write_project_report(
    project: str,
    *,
    output: Path | None = None,
    tracker: str | None = None,
    uri: str | None = None,
    loss: str | None = None,
    lr: str = "lr",
    batch_size: str = "batch_size",
    seed: str = "seed",
    batch_unit: str = "examples",
    protocol: str | None = None,
    horizon_steps: int | None = None,
    target_losses: tuple[float, ...] | None = None,
    budget_examples: float | None = None,
    example_overhead: float = EXAMPLE_OVERHEAD,
    draws: int = 2000,
    fit_seed: int = 0,
    cache: bool = True,
    quiet: bool = False,
) -> Path:
    """Do the work of `surge-report` and return the page's path."""
    folder = output if output is not None else Path("reports") / safe_name(project)
    if folder.exists() and not folder.is_dir():
        raise SurgeError(f"{folder} is a file.", "Name a folder with --output.")
    say(f"Collecting {project} ...", quiet=quiet)
    curves = collect(
        project,
        tracker=tracker,
        uri=uri,
        loss=loss,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        batch_unit=batch_unit,
        cache_dir=_cache_folder() if cache else None,
    )
    say(f"  {len(curves.runs):,} runs, {len(curves.points):,} points of {curves.loss_name}", quiet=quiet)
    with progress_bar("fitting", quiet=quiet):
        result = fit(
            curves,
            protocol=protocol,
            target_losses=target_losses,
            horizon_steps=horizon_steps,
            n_draws=draws,
            seed=fit_seed,
        )
        result = attach_schedules(result, budget_examples=budget_examples, example_overhead=example_overhead)
        cells = measured_cells(
            curves, protocol=protocol, target_losses=target_losses, horizon_steps=horizon_steps
        )
    paths = write_report(result, cells, folder)
    if not quiet:
        print_summary(result, out)
    page = next(path for path in paths if path.suffix == ".html")
    out.print(f"Report: {page}", markup=False, highlight=False, soft_wrap=True)
    return page


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
