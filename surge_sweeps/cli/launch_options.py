"""The options of `surge-sweep launch` and of the commands that share them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from surge_sweeps.launch.engines import ENGINES

Tracker = Annotated[str, typer.Option(help="Where runs are logged: mlflow, wandb or files.")]
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
        help="On this machine: trials at a time; on W&B, agents. Default: one per core for built-in workloads, 1 for"
        " your own script."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no chatter.")]
Files = Annotated[list[Path], typer.Argument(help="Sweep files.")]
Project = Annotated[
    str | None,
    typer.Option(
        help="MLflow experiment, W&B entity/project, or the folder of --tracker files, to log into. Default: the first"
        " sweep's name; on W&B WANDB_ENTITY and WANDB_PROJECT come before it."
    ),
]
On = Annotated[str, typer.Option("--on", help=f"Engine: {', '.join(ENGINES)}.")]
Packed = Annotated[
    bool,
    typer.Option(
        "--packed",
        help="Built-in workloads: train the trials of a batch size together in one process, tens of times the trials"
        " per second. On this machine with MLflow or files that is always done. On W&B one run a trial is logged,"
        " without agents.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE for the engine, several times; see: surge-sweep engines NAME."),
]
Settings = Annotated[
    Path | None, typer.Option("--settings", help="YAML file with settings of the engine, one a line.")
]
GpusPerTask = Annotated[
    float,
    typer.Option("--gpus-per-task", help="GPUs of each trial (or pack, or agent); Ray takes fractions."),
]
CpusPerTask = Annotated[int | None, typer.Option("--cpus-per-task", help="Cores of each.")]
MemoryGb = Annotated[float | None, typer.Option("--memory-gb", help="Main memory of each, in GiB.")]
TimeLimit = Annotated[
    int | None,
    typer.Option(
        "--time-limit-minutes",
        help="The engine ends a trial after this; before, it saves its state, and is queued again if it can be.",
    ),
]
ProcessesPerNode = Annotated[
    int,
    typer.Option("--processes-per-node", help="Processes of one trial on a node; from 2 on under torchrun."),
]
Nodes = Annotated[int, typer.Option("--nodes", help="Nodes of one trial (SLURM).")]
MicroBatchSize = Annotated[
    int | None,
    typer.Option(
        "--micro-batch-size",
        help="Built-in workloads: examples that a process holds at once; the trial's batch size stays what it is.",
    ),
]
Wait = Annotated[
    bool,
    typer.Option(
        "--wait", help="On a cluster: return when every trial has ended, not once they are handed over."
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be submitted, and change nothing anywhere.")
]
Replan = Annotated[
    bool,
    typer.Option(
        "--replan", help="Take sweep files that were changed since they were launched as they are now."
    ),
]
