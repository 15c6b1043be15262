"""`surge-sweep branch`: train one run to some losses, and write a sweep that branches from each of them."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.branching import branch_sweep, default_reference, make_checkpoints
from surge_sweeps.cli.console import progress_bar, say, tell
from surge_sweeps.cli.launch_options import Quiet
from surge_sweeps.cli.new import describe_size, refuse_existing, write_sweep
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.sweep import Sweep
from surge_sweeps.training.options import DEVICES


def branch(
    file: Annotated[Path, typer.Argument(help="Sweep file of a built-in workload: its grid is branched.")],
    losses: Annotated[
        str, typer.Option(help="Evaluation losses to branch at, such as 1.8,0.8: a sweep each.")
    ],
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of a branch in steps, the same for every batch size.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, help="Its length in examples, in the place of --steps.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder of checkpoints and sweep files. Default: the sweep's name."
        ),
    ] = None,
    reference_lr: Annotated[
        float | None,
        typer.Option(help="Learning rate of the reference run. Default: the middle of the grid."),
    ] = None,
    reference_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Batch size of the reference run. Default: the middle of the grid."),
    ] = None,
    reference_seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the reference run. Default: one that the grid lacks.")
    ] = None,
    reference_steps: Annotated[
        int | None, typer.Option(min=1, help="The longest that it trains. Default: the sweep's max_steps.")
    ] = None,
    evaluate_every: Annotated[
        int,
        typer.Option(min=1, help="Look at its loss after so many steps: a checkpoint is at most so late."),
    ] = 1,
    device: Annotated[
        str,
        typer.Option(
            help="Where the reference run computes: auto (a GPU where torch sees one), cpu or cuda."
        ),
    ] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace existing sweep files.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train one run to some losses, and write a sweep that branches from each of them.

    All runs of such a sweep start from one checkpoint and take a fixed number of steps, or of examples. That is far
    cheaper than runs from scratch, and what it measures does not depend on how the runs came there. Their learning
    rates are constant: warm-up and schedule of the sweep are the reference run's alone. Launch the files that it writes
    like any other; a report tells them from runs from scratch.
    """
    if (steps is None) == (examples is None):
        raise typer.BadParameter("give either --steps or --examples")
    if device not in DEVICES:
        raise UnknownNameError("device", device, DEVICES)
    wanted = _losses(losses)
    sweep = Sweep.read(file)
    folder = output or Path(sweep.name)
    files = {loss: folder / f"{file.stem}-from-{loss:g}.yaml" for loss in wanted}
    if not force:
        refuse_existing(list(files.values()))
    reference = default_reference(sweep, reference_steps)
    given = {"lr": reference_lr, "batch_size": reference_batch_size, "seed": reference_seed}
    reference = replace(
        reference,
        evaluate_every=evaluate_every,
        **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]  # as typed above
    )
    say(
        f"The reference run: learning rate {reference.lr:g}, batch size {reference.batch_size}, "
        f"seed {reference.seed}, at most {reference.max_steps:,} steps.",
        quiet=quiet,
    )
    with progress_bar("reference run", quiet=quiet, lines=True) as progress:
        # Absolute, as a launch may run its tasks in other folders.
        checkpoints = make_checkpoints(
            sweep,
            reference,
            wanted,
            (folder / "checkpoints").resolve(),
            lambda step, loss: progress(step, reference.max_steps, f"loss {loss:.4g}"),
            device=device,
        )
    for loss, checkpoint in zip(wanted, checkpoints, strict=True):
        branched = branch_sweep(sweep, checkpoint, loss, steps=steps, examples=examples)
        write_sweep(files[loss], branched)
        tell(f"{files[loss]}: {describe_size(branched)}, from {checkpoint.name}.")
    command = ["surge-sweep", "launch", *map(str, files.values()), "--project", f"{sweep.name}-branches"]
    tell(f"Next: {shlex.join(command)}")


def _losses(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise SurgeError(
            f"--losses {text!r} is no list of numbers.", "Write it as in --losses 1.8,0.8."
        ) from error
    if len(set(values)) < len(values):
        raise SurgeError(f"--losses {text!r} names a loss twice.", "Name each once.")
    return values
