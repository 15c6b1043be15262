"""`surge-report PROJECT`: collect, fit, schedule, report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.cli.console import run, show_page, typer_app
from surge_sweeps.cli.project_report import FitOptions, cache_folder, write_project_report
from surge_sweeps.cli.publish import PublishOptions
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting.observables.plan import PROTOCOLS
from surge_sweeps.schedule import EXAMPLE_OVERHEAD
from surge_sweeps.trackers.base import ReadOptions, TableColumns

app = typer_app("From a project's runs to optimal learning rates, a verdict and a schedule.")


#: Beyond this the draws fill the memory and no interval gets better.
MAX_DRAWS = 100_000


@app.command()
def report(
    project: Annotated[
        str,
        typer.Argument(
            help="W&B project (entity/project or entity/project/SWEEP_ID), MLflow experiment, or the path of a CSV or"
            " Parquet table or of a folder of runs: of --tracker files, or offline ones of W&B."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: reports/PROJECT.")
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(
            help="Where the runs are: mlflow, wandb or files. Default: what is there and configured."
        ),
    ] = None,
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
    lr_column: Annotated[str | None, typer.Option(help="Parameter or column with the learning rate.")] = None,
    batch_column: Annotated[
        str | None,
        typer.Option(
            help="Parameter or column with the global batch size; on a tracker a product as in 'micro * accumulation'."
        ),
    ] = None,
    seed_column: Annotated[str | None, typer.Option(help="Parameter or column with the seed.")] = None,
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
        str | None,
        typer.Option(
            help="The metric that counts optimizer steps; _step: on W&B every log call is one, on MLflow the step given"
            " with each point is. Tables: the optimizer step, where the rows are points of loss curves."
        ),
    ] = None,
    examples_column: Annotated[
        str | None,
        typer.Option(help="The metric that counts examples seen (with --batch-unit tokens: tokens)."),
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option(help='W&B: which runs, as JSON in W&B\'s query language: \'{"state": "finished"}\'.'),
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
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Write the result back to where the runs are. W&B: a run of job type surge-report with tables, an"
            " artifact and a summary. MLflow: a note, pictures, tables, metrics and saved views on the sweep's parent"
            " run, or on a run surge-report where there is not just one. Publishing again updates it.",
        ),
    ] = False,
    publish_to: Annotated[
        str | None,
        typer.Option(help="Publish in this W&B project (entity/project) instead, for example from a table."),
    ] = None,
    wandb_page: Annotated[
        bool,
        typer.Option(
            "--wandb-page",
            help="When publishing on W&B, also write a W&B report: the result above live panels.",
        ),
    ] = False,
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
        steps_to_goal=steps_to_goal_column,
        gain=gain_column,
        optimal_lr=optimal_lr_column,
    )
    cache_dir = cache_folder() if cache else None
    page = write_project_report(
        project,
        ReadOptions(
            loss=loss_column,
            lr=lr_column,
            batch_size=batch_column,
            seed=seed_column,
            step=step_column,
            examples=examples_column,
            filters=_filters(filters),
            batch_unit=batch_unit,
            cache_dir=cache_dir,
            table=columns,
        ),
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
        publish=_publish_options(publish, publish_to, wandb_page),
        quiet=quiet,
    )
    if open_:
        show_page(page)


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


def _publish_options(publish: bool, to: str | None, page: bool) -> PublishOptions | None:
    if not publish and to is None:
        if page:
            raise typer.BadParameter("--wandb-page goes with --publish")
        return None
    return PublishOptions(to, page)


def _filters(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        raise SurgeError(
            f"--filters is no JSON: {error}.", 'Write it as \'{"config.optimizer": "adamw"}\'.'
        ) from error
    if not isinstance(found, dict):
        raise SurgeError("--filters is no JSON object.", 'Write it as \'{"config.optimizer": "adamw"}\'.')
    return found


def main() -> None:
    """Entry point of `surge-report`."""
    run(app)


if __name__ == "__main__":
    main()
