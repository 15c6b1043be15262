"""`surge-sweep missing`: how far sweeps are, and what is missing of them as small sweep files."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from surge_sweeps.cli.console import out, say
from surge_sweeps.cli.launch_options import Quiet, Uri
from surge_sweeps.cli.new import describe_size, refuse_existing, write_sweep
from surge_sweeps.rectangles import follow_up
from surge_sweeps.standing import LEFT, state_of
from surge_sweeps.sweep import Sweep, Trial
from surge_sweeps.trackers.mlflow.uri import display_uri
from surge_sweeps.trackers.project_trials import ProjectOutcomes, planned_trials, project_outcomes
from surge_sweeps.trackers.trial_outcomes import TrialOutcome

#: Columns of the table after the file and the number planned.
_COUNTS = ("finished", "diverged", "capped", "running", "missing")
#: What is told of the missing behind those, with its words; what was stopped or went stale counts as crashed.
_OF_MISSING = {"crashed": "crashed or stopped", "preempted": "preempted"}


@dataclass(frozen=True)
class _Standing:
    """How one sweep file stands; each trial in `counts` once, and again in `of_missing` where that tells more."""

    file: Path
    sweep: Sweep
    counts: Counter[str]
    of_missing: Counter[str]
    missing: Sequence[Trial]


def missing(
    files: Annotated[list[Path], typer.Argument(help="Sweep files.")],
    project: Annotated[
        str | None,
        typer.Option(
            help="MLflow experiment, W&B entity/project or folder. Default: as for `surge-sweep launch`."
        ),
    ] = None,
    tracker: Annotated[
        str | None,
        typer.Option(help="Where the runs are: mlflow, wandb or files. Default: what is configured."),
    ] = None,
    uri: Uri = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write the missing trials as a small sweep file, several numbered ones where they fill no"
            " rectangle: `surge-sweep launch` and `wandb sweep` take them.",
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    quiet: Quiet = False,
) -> None:
    """Count what is planned, finished, diverged, running and missing of each sweep, by trial id.

    A trial counts once, wherever in the project its run is; one without a result that nobody works on is missing,
    whether it crashed, was preempted or never began. W&B shows a run that was killed as running for some minutes. What
    -o writes may still stand in an unfinished sweep, a preempted trial too: `surge-sweep launch` goes on with that
    sweep; before other agents start on the files, end it with `wandb sweep --stop`.
    """
    sweeps = [Sweep.read(file) for file in files]
    found = project_outcomes(sweeps[0], planned_trials(sweeps), project, tracker, uri)
    standings = [_standing(file, sweep, found.outcomes) for file, sweep in zip(files, sweeps, strict=True)]
    options = _launch_options(found, uri)
    written = _write_missing(output, standings, options, found, force=force) if output is not None else {}
    if json_:
        out.print(
            json.dumps(_as_json(found.project, found.tracker, standings, written)),
            soft_wrap=True,
            markup=False,
            highlight=False,
        )
        return
    out.print(_table(found.project, standings))
    for path, sweep in written.items():
        out.print(f"{path}: {describe_size(sweep)}", markup=False, highlight=False, soft_wrap=True)
    if written:
        command = ["surge-sweep", "launch", *map(str, written), *options]
        if not quiet:
            out.print(f"Next: {shlex.join(command)}", markup=False, highlight=False, soft_wrap=True)
            if uri and display_uri(uri) != uri:
                out.print("  --uri is shown without user, password and options: give it as you gave it here.")
    elif output is not None:
        say("Nothing is missing: no file is written.", quiet=quiet)


def _standing(file: Path, sweep: Sweep, outcomes: Mapping[str, TrialOutcome]) -> _Standing:
    counts: Counter[str] = Counter()
    of_missing: Counter[str] = Counter()
    left: list[Trial] = []
    for trial in sweep.trials():
        outcome = outcomes.get(trial.trial_id)
        state = state_of(outcome)
        if state not in LEFT:
            counts[state] += 1
        else:
            counts["missing"] += 1
            if outcome is not None:
                of_missing["preempted" if outcome.is_preempted else "crashed"] += 1
            left.append(trial)
    return _Standing(file, sweep, counts, of_missing, left)


def _write_missing(
    output: Path,
    standings: Sequence[_Standing],
    options: Sequence[str],
    found: ProjectOutcomes,
    *,
    force: bool,
) -> dict[Path, Sweep]:
    """The follow-up sweeps, written: OUTPUT itself if there is one, else numbered from 1.

    On W&B a file names its project, so that `wandb sweep FILE` needs no more.
    """
    entity, _, project = found.project.rpartition("/")
    home = {"entity": entity, "project": project} if found.tracker == "wandb" else {}
    taken: set[str] = set()
    parts: list[Sweep] = []
    for standing in standings:
        # A trial that stands in two files is run for one of them.
        left = [trial for trial in standing.missing if trial.trial_id not in taken]
        taken |= {trial.trial_id for trial in left}
        parts += [replace(part, extra={**part.extra, **home}) for part in follow_up(standing.sweep, left)]
    suffix = output.suffix or ".yaml"
    paths = (
        [output]
        if len(parts) == 1
        else [output.with_name(f"{output.stem}-{number}{suffix}") for number in range(1, len(parts) + 1)]
    )
    written = dict(zip(paths, parts, strict=True))
    if not force:
        refuse_existing(list(written))
    for path, sweep in written.items():
        write_sweep(path, sweep, *options)
    return written


def _launch_options(found: ProjectOutcomes, uri: str | None) -> list[str]:
    """What brings `surge-sweep launch` to the project; a W&B sweep file names it itself.

    Args:
        uri: the store as the user gave it. What comes out goes into files and logs, so without user and password.
    """
    if found.tracker == "wandb":
        return ["--tracker", "wandb"]
    if found.tracker == "files":
        return ["--tracker", "files", "--project", found.project]
    return ["--project", found.project, *(["--uri", display_uri(uri)] if uri else [])]


def _table(project: str, standings: Sequence[_Standing]) -> Table:
    table = Table(
        title=escape(project),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("sweep file", overflow="fold")
    for heading in ("planned", *_COUNTS):
        table.add_column(heading, justify="right", no_wrap=True)
    of_all = sum((standing.of_missing for standing in standings), Counter[str]())
    if of_all.total():
        table.add_column("of these")
    rows = [
        [len(standing.sweep.trials()), *(standing.counts[name] for name in _COUNTS)] for standing in standings
    ]
    for standing, row in zip(standings, rows, strict=True):
        details = [_of_missing(standing.of_missing)] if of_all.total() else []
        table.add_row(escape(str(standing.file)), *_cells(row), *details)
    if len(rows) > 1:
        table.add_section()
        details = [_of_missing(of_all)] if of_all.total() else []
        table.add_row("all", *_cells([sum(column) for column in zip(*rows, strict=True)]), *details)
    return table


def _cells(row: Sequence[int]) -> list[str]:
    return [f"{number:,}" for number in row]


def _of_missing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts[name]:,} {words}" for name, words in _OF_MISSING.items() if counts[name])


def _as_json(
    project: str, tracker: str, standings: Sequence[_Standing], written: Mapping[Path, Sweep]
) -> dict[str, object]:
    return {
        "project": project,
        "tracker": tracker,
        "sweeps": [
            {
                "file": str(standing.file),
                "name": standing.sweep.name,
                "sweep_id": standing.sweep.sweep_id,
                "planned": len(standing.sweep.trials()),
                **{name: standing.counts[name] for name in _COUNTS},
                **{name: standing.of_missing[name] for name in _OF_MISSING},
                "missing_trials": [trial.trial_id for trial in standing.missing],
            }
            for standing in standings
        ],
        "written": [str(path) for path in written],
    }
