"""`surge-sweep`: write a sweep, launch it, try the whole flow on embedded data."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps import axes
from surge_sweeps.cli.console import out, progress_bar, run, say, show_page, typer_app
from surge_sweeps.counting import counted
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.launch.base import LaunchResult
from surge_sweeps.launch.local import LocalLauncher
from surge_sweeps.sweep import BUILTIN_COMMAND, SCRIPT_COMMAND, Scalar, Sweep
from surge_sweeps.trackers import open_tracker
from surge_sweeps.trackers.base import Tracker as TrackerStore

ENGINES = ("local",)

app = typer_app("Learning rate x batch size sweeps: write them, launch them.")

Tracker = Annotated[str, typer.Option(help="Where runs are logged: mlflow.")]
Uri = Annotated[
    str | None,
    typer.Option(
        "--uri",
        help="MLflow tracking URI. Default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db in this folder.",
    ),
]
Agents = Annotated[
    int | None,
    typer.Option(
        help="Worker processes. Default: one per core for built-in workloads, 1 for your own script."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no chatter.")]


@app.command()
def new(
    output: Annotated[Path, typer.Argument(help="Sweep file to write, for example sweep.yaml.")],
    program: Annotated[
        str | None, typer.Option(help="Your script: it takes --lr --batch_size --seed and logs a loss.")
    ] = None,
    workload: Annotated[
        str | None, typer.Option(help="Instead of a script, a built-in workload: digits.")
    ] = None,
    lr: Annotated[
        str, typer.Option(help="Learning rates: start:stop:count in log space, or values 0.001,0.01.")
    ] = "1e-4:1e-1:10",
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="Batch sizes: start:stop:factor, or values 8,16,32.")
    ] = "4:512:2",
    seeds: Annotated[str, typer.Option(help="How many seeds, or the seeds 0,1,2.")] = "3",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A constant parameter; repeatable."),
    ] = None,
    loss: Annotated[str, typer.Option(help="The metric the sweep is about.")] = "eval/loss",
    name: Annotated[str | None, typer.Option(help="Name of the sweep. Default: the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a sweep file for your own script or for a built-in workload."""
    if (program is None) == (workload is None):
        raise typer.BadParameter("give either --program train.py or --workload digits")
    if output.exists() and not force:
        raise SurgeError(f"{output} is there already.", "Choose another name, or replace it with --force.")
    constants = dict(_constant(item) for item in set_ or [])
    if workload is not None:
        constants = {"workload": workload, **constants}
    sweep = Sweep(
        lr=axes.learning_rates(lr),
        batch_size=axes.batch_sizes(batch_size),
        seed=axes.seeds(seeds),
        constants=constants,
        command=SCRIPT_COMMAND if program is not None else BUILTIN_COMMAND,
        program=program,
        name=name or output.stem,
        loss=loss,
    )
    if sweep.is_builtin:
        from surge_sweeps.training import TrialConfig

        TrialConfig.from_parameters(sweep.trials()[0].parameters)
    file = shlex.quote(str(output))
    sweep.write(output, header=f"Run it with: surge-sweep launch {file}   or: wandb sweep {file}")
    cost = sweep.cost_examples()
    bound = f", at most {cost:,} examples" if cost is not None else ""
    out.print(f"{output}: {_size(sweep)}{bound}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def launch(
    files: Annotated[list[Path], typer.Argument(help="Sweep files.")],
    project: Annotated[
        str | None, typer.Option(help="MLflow experiment to log into. Default: the first sweep's name.")
    ] = None,
    tracker: Tracker = "mlflow",
    uri: Uri = None,
    on: Annotated[str, typer.Option("--on", help="Engine: local.")] = "local",
    agents: Agents = None,
    quiet: Quiet = False,
) -> None:
    """Run every trial of the sweeps that has no result yet; call it again to resume."""
    if on not in ENGINES:
        raise UnknownNameError("engine", on, ENGINES)
    sweeps = [Sweep.read(file) for file in files]
    name = project or sweeps[0].name
    result = _run_all(sweeps, open_tracker(tracker, name, uri), agents, quiet)
    if result.already_done or result.ended:
        command = ["surge-report", name, *(["--uri", uri] if uri else [])]
        command += ["--loss-column", sweeps[0].loss] if sweeps[0].loss != "eval/loss" else []
        out.print(f"Next: {shlex.join(command)}", markup=False, highlight=False, soft_wrap=True)
    if result.missing:
        raise typer.Exit(1)


@app.command()
def demo(
    tracker: Tracker = "mlflow",
    uri: Uri = None,
    agents: Agents = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train, fit and report on real handwritten digits: the whole flow in a few minutes."""
    from surge_sweeps.cli.report import write_project_report
    from surge_sweeps.demo import PROJECT, plan_demo

    say("Planning: common checkpoints to branch from ...", quiet=quiet)
    _run_all(plan_demo(Path(PROJECT)), open_tracker(tracker, PROJECT, uri), agents, quiet)
    page = write_project_report(PROJECT, tracker=tracker, uri=uri, quiet=quiet)
    if open_:
        show_page(page)


def _run_all(sweeps: Sequence[Sweep], store: TrackerStore, agents: int | None, quiet: bool) -> LaunchResult:
    """Launch with a progress bar and tell what became of the trials."""
    for sweep in sweeps:
        say(f"{sweep.name}: {_size(sweep)}", quiet=quiet)
    try:
        with progress_bar("training", quiet=quiet) as progress:
            result = LocalLauncher(agents).launch(sweeps, store, progress)
    finally:
        store.close()
    _tell(result)
    return result


def _size(sweep: Sweep) -> str:
    axes_text = " x ".join(
        counted(len(values), name)
        for values, name in (
            (sweep.lr, "learning rate"),
            (sweep.batch_size, "batch size"),
            (sweep.seed, "seed"),
        )
    )
    return f"{counted(len(sweep.trials()), 'trial')} = {axes_text}"


def _tell(result: LaunchResult) -> None:
    out.print(result.summary(), highlight=False)
    reasons = Counter(result.failures.values())
    for reason, count in reasons.most_common(5):
        out.print(f"  {counted(count, 'trial')}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if result.missing:
        out.print("Call the same command again to run the missing trials.")


def _constant(item: str) -> tuple[str, Scalar]:
    """NAME=VALUE with the value a whole number, a number, true or false, else text, just as typed."""
    name, equals, text = item.partition("=")
    if not equals or not name:
        raise SurgeError(
            f"--set {item!r} has no value.", "Write --set NAME=VALUE, as in --set optimizer=adamw."
        )
    if text in ("true", "false"):
        return name, text == "true"
    for read in (int, float):
        try:
            return name, read(text)
        except ValueError:
            continue
    return name, text


def main() -> None:
    """Entry point of `surge-sweep`."""
    run(app)
