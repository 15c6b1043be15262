"""`surge-sweep new`: write a sweep file, or one for each window of learning rates."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps import axes
from surge_sweeps.cli.console import out, say
from surge_sweeps.counting import counted
from surge_sweeps.errors import MissingExtraError, SurgeError
from surge_sweeps.launch.checks import check_data_of, check_trials
from surge_sweeps.sweep import BUILTIN_COMMAND, SCRIPT_COMMAND, Scalar, Sweep

DEFAULT_LR = "1e-4:1e-1:10"
DEFAULT_BATCH_SIZE = "4:512:2"

_WINDOW_FORM = "Write --lr-window BATCHES=LRS, as in --lr-window 8,16=1e-4:1e-2:8."


def new(
    output: Annotated[Path, typer.Argument(help="Sweep file to write, for example sweep.yaml.")],
    program: Annotated[
        str | None, typer.Option(help="Your script: it takes --lr --batch_size --seed and logs a loss.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(help="Instead of a script, a built-in workload: digits, images, text or teacher."),
    ] = None,
    lr: Annotated[
        str | None,
        typer.Option(
            help="Learning rates: start:stop:count in log space, or values 0.001,0.01."
            f" [default: {DEFAULT_LR}]"
        ),
    ] = None,
    batch_size: Annotated[
        str | None,
        typer.Option(
            "--batch-size",
            help=f"Batch sizes: start:stop:factor, or values 8,16,32. [default: {DEFAULT_BATCH_SIZE}]",
        ),
    ] = None,
    lr_window: Annotated[
        list[str] | None,
        typer.Option(
            "--lr-window",
            metavar="BATCHES=LRS",
            help="Instead of --lr and --batch-size, learning rates for some batch sizes, such as"
            " 8,16=1e-4:1e-2:8; repeatable. Each is a sweep file of its own, OUTPUT-batch-8-to-16.yaml.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="How many seeds, or the seeds 0,1,2.")] = "3",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A constant parameter; repeatable. Those of built-in workloads, with their defaults, are listed by:"
            " python -m surge_sweeps.training --help",
        ),
    ] = None,
    loss: Annotated[str, typer.Option(help="The metric the sweep is about.")] = "eval/loss",
    name: Annotated[str | None, typer.Option(help="Name of the sweep. Default: the file's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a sweep file for your own script or for a built-in workload.

    The file is W&B's own format: `surge-sweep launch FILE` and `wandb sweep FILE` both take it. Where the best
    learning rate moves a lot with the batch size, give each range of batch sizes its own window with --lr-window: a
    sweep file is a rectangle, so each window becomes one.
    """
    if (program is None) == (workload is None):
        raise typer.BadParameter(
            "give either --program train.py or --workload NAME: digits, images, text or teacher"
        )
    if lr_window and (lr is not None or batch_size is not None):
        raise typer.BadParameter(
            "--lr-window takes the place of --lr and --batch-size: give one or the other"
        )
    constants = dict(_constant(item) for item in set_ or [])
    if workload is not None:
        constants = {"workload": workload, **constants}
    grids: Mapping[str, tuple[tuple[float, ...], tuple[int, ...]]]
    if lr_window:
        grids = _windows(lr_window)
    else:
        grids = {
            "": (axes.learning_rates(lr or DEFAULT_LR), axes.batch_sizes(batch_size or DEFAULT_BATCH_SIZE))
        }
    sweeps = {
        output.with_name(f"{output.stem}{suffix}{output.suffix or '.yaml'}") if suffix else output: Sweep(
            lr=lrs,
            batch_size=batches,
            seed=axes.seeds(seeds),
            constants=constants,
            command=SCRIPT_COMMAND if program is not None else BUILTIN_COMMAND,
            program=program,
            name=f"{name or output.stem}{suffix}",
            loss=loss,
        )
        for suffix, (lrs, batches) in grids.items()
    }
    _write(sweeps, force)
    if program is not None and not Path(program).is_file():
        say(
            f"note: there is no file {program!r} in this folder. A launch looks for it in the folder that it is"
            " called in."
        )


def describe_size(sweep: Sweep) -> str:
    """How many trials, and of what.

    >>> describe_size(Sweep(lr=(0.1, 0.2), batch_size=(8,), seed=(0, 1)))
    '4 trials = 2 learning rates x 1 batch size x 2 seeds'
    """
    axes_text = " x ".join(
        counted(len(values), name)
        for values, name in (
            (sweep.lr, "learning rate"),
            (sweep.batch_size, "batch size"),
            (sweep.seed, "seed"),
        )
    )
    return f"{counted(len(sweep.trials()), 'trial')} = {axes_text}"


def write_sweep(path: Path, sweep: Sweep, *options: str) -> None:
    """Write one sweep file, with how to run it on top: the `options` are those of `surge-sweep launch`."""
    command = shlex.join(["surge-sweep", "launch", str(path), *options])
    sweep.write(path, header=f"Run it with: {command}   or: wandb sweep {shlex.quote(str(path))}")


def refuse_existing(paths: Sequence[Path]) -> None:
    """Leave files alone that nobody asked to replace.

    Raises:
        SurgeError: one of them is there.
    """
    for path in paths:
        if path.exists():
            raise SurgeError(
                f"{path} is there already.", "Choose another name or folder, or replace it with --force."
            )


def _write(sweeps: Mapping[Path, Sweep], force: bool) -> None:
    if not force:
        refuse_existing(list(sweeps))
    for sweep in sweeps.values():
        # A script may be written later, and need not lie here.
        if sweep.is_builtin:
            _check(sweep)
    for path, sweep in sweeps.items():
        write_sweep(path, sweep)
        cost = sweep.cost_examples()
        bound = f", at most {cost:,} examples" if cost is not None else ""
        out.print(f"{path}: {describe_size(sweep)}{bound}", markup=False, highlight=False, soft_wrap=True)
        for note in check_data_of(sweep, sweep.trials(), is_here=False):
            say(f"note: {note}")


def _check(sweep: Sweep) -> None:
    try:
        check_trials(sweep)
    except MissingExtraError:
        raise
    except SurgeError as error:
        raise SurgeError(error.what, f"{error.hint} Parameters are given with --set NAME=VALUE.") from error


def _windows(texts: Sequence[str]) -> dict[str, tuple[tuple[float, ...], tuple[int, ...]]]:
    """End of a file's name -> learning rates and batch sizes, one for each `BATCHES=LRS`."""
    found: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {}
    taken: dict[int, str] = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not equals:
            raise SurgeError(f"--lr-window {text!r} has no '='.", _WINDOW_FORM)
        batches, lrs = axes.batch_sizes(left), axes.learning_rates(right)
        for batch_size in batches:
            if batch_size in taken:
                raise SurgeError(
                    f"the batch size {batch_size} is in two windows, {taken[batch_size]!r} and {text!r}.",
                    "Give each batch size one window of learning rates.",
                )
            taken[batch_size] = text
        low, high = min(batches), max(batches)
        # No two windows share an end, so no two files a name.
        suffix = f"-batch-{low}" if low == high else f"-batch-{low}-to-{high}"
        found[suffix] = (lrs, batches)
    return found


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
