"""The command line of `python -m surge_sweeps.training`: a trial's parameters, and what is no parameter of it.

Flags of parameters are the parameters' own names, so that a sweep's can be handed over as they are. The other options
say where the run is logged and how it is computed; they leave the trial's id as it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from surge_sweeps.sweep import Scalar

DEFAULT_PROJECT = "surge-sweeps"
DEFAULT_EVERY_MINUTES = 5.0
DEVICES = ("auto", "cpu", "cuda")

_FLAGS: tuple[tuple[str, type, str], ...] = (
    ("workload", str, "what to train on (default: digits)"),
    ("model", str, "model of the workload (default: mlp); a wrong name lists them all"),
    (
        "data",
        str,
        "what to train on: a path, the name of a known data set (surge-sweep data lists them), or hf:...",
    ),
    (
        "eval_data",
        str,
        "the held-out set, likewise; default: the data set's own, else a fixed share of the data",
    ),
    ("sequence_length", int, "tokens of an example of text (default: 128)"),
    ("tokenizer", str, "what makes text tokens: bytes, bpe-N or a tokenizer.json; default: bytes"),
    ("layers", int, "layers of the model (default: gpt 6, moe 4, mlp 2)"),
    (
        "width",
        int,
        "width of its layers (default: gpt 768, moe 128, mlp 256, or 64 for teacher; cnn 16, resnet18 64)",
    ),
    ("heads", int, "attention heads (default: gpt 12, moe 4)"),
    ("experts", int, "experts of moe that tokens are routed to (default: 16)"),
    ("shared_experts", int, "experts of moe that see every token (default: 1)"),
    ("experts_per_token", int, "experts of moe that each token is routed to (default: 3)"),
    ("optimizer", str, "optimizer (default: adamw); a wrong name lists them all"),
    ("lr", float, "learning rate, > 0; required"),
    ("batch_size", int, "examples per step, of all processes together; required"),
    ("seed", int, "decides the initial parameters and the order of examples (default: 0)"),
    ("beta1", float, "first moment decay; default: the optimizer's own"),
    ("beta2", float, "second moment decay; default: the optimizer's own"),
    ("eps", float, "added to the denominator; default: the optimizer's own"),
    ("momentum", float, "momentum; default: the optimizer's own"),
    ("weight_decay", float, "weight decay; default: the optimizer's own"),
    ("precision", str, "fp32, or bf16: products in 16 bits, parameters and loss in 32 (default: fp32)"),
    (
        "compile",
        str,
        "inductor: fuse operations, at the price of some seconds at the first step (default: eager, not at all)",
    ),
    ("schedule", str, "learning rate over the run (default: constant); a wrong name lists them all"),
    ("warmup_steps", int, "steps of linear warm-up of the learning rate"),
    ("warmup_examples", int, "the same, in examples"),
    ("beta2_half_life_examples", float, "let beta2 forget half in so many examples, whatever the batch size"),
    ("beta2_half_life_tokens", float, "the same, in tokens of text"),
    ("weight_decay_batch_size", int, "batch size of which weight_decay is; at others it is in proportion"),
    ("max_steps", int, "stop after this many steps"),
    ("max_examples", int, "stop after this many examples; this or --max_steps is required"),
    ("target_loss", float, "stop once the evaluation loss is at or below this"),
    ("steps_after_target", int, "go on for so many steps from there"),
    (
        "log_points",
        int,
        "points to log, and evaluations, at most (default: 150, and every step of 50 or fewer)",
    ),
    ("init_from", str, "checkpoint file to start from, with fresh optimizer state"),
)


class Task(NamedTuple):
    """For which task of an engine a run is.

    Attributes:
        sweep_id, trial_id: which trial of which sweep. owner: names the task, see `Tracker.resume_run`.
    """

    sweep_id: str
    trial_id: str
    owner: str


class Options(NamedTuple):
    """What is no parameter of the trial.

    Attributes:
        tracker, project, uri: where the run is logged; None is the default.
        task: None for a run that belongs to no task of an engine.
        checkpoint_dir: folder of the run's state. checkpoint_every_minutes: 0 saves it only to make room.
        micro_batch_size: examples that one process holds at once; None: its whole share of a batch.
        device: one of `DEVICES`.
    """

    tracker: str | None
    project: str | None
    uri: str | None
    task: Task | None
    checkpoint_dir: Path | None
    checkpoint_every_minutes: float
    micro_batch_size: int | None
    device: str


def parse(arguments: Sequence[str] | None = None) -> tuple[dict[str, Scalar], Options]:
    """The trial's parameters and the other options; exits with 2 and a usage message on a mistake.

    >>> parameters, options = parse(["--lr=0.1", "--batch-size=8", "--max_steps=5", "--device=cpu"])
    >>> parameters, options.device, options.task
    ({'lr': 0.1, 'batch_size': 8, 'max_steps': 5}, 'cpu', None)
    """
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    task = [given.pop(name) for name in Task._fields]
    if any(task) and not all(task):
        parser.error("--sweep-id, --trial-id and --owner go together.")
    if given["micro_batch_size"] is not None and given["micro_batch_size"] < 1:
        parser.error("--micro-batch-size must be at least 1.")
    if not 0 <= given["checkpoint_every_minutes"] < float("inf"):
        parser.error("--checkpoint-every-minutes must be 0 or more.")
    rest = {name: given.pop(name) for name in Options._fields if name != "task"}
    return given, Options(**rest, task=Task(*task) if all(task) else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m surge_sweeps.training",
        description="Train one trial of a built-in workload and log it. Under torchrun all processes train the one "
        "trial together.",
        epilog="Computes on one core; set OMP_NUM_THREADS for more.",
        allow_abbrev=False,
    )
    for name, kind, text in _FLAGS:
        required = name in ("lr", "batch_size")
        parser.add_argument(
            f"--{name}",
            *([f"--{name.replace('_', '-')}"] if "_" in name else []),
            dest=name,
            type=kind,
            default=argparse.SUPPRESS,
            required=required,
            metavar=kind.__name__,
            help=text,
        )
    _add_places(parser)
    _add_computing(parser)
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracker",
        help="where the run is logged: mlflow, wandb or files (default: wandb under a W&B agent, else mlflow)",
    )
    parser.add_argument(
        "--project",
        help="MLflow experiment, W&B project or folder of files; under an agent its own "
        f"(default: {DEFAULT_PROJECT})",
    )
    parser.add_argument(
        "--uri", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db in the working folder)"
    )
    parser.add_argument("--sweep-id", help="of an engine's task: the sweep that the run belongs to")
    parser.add_argument(
        "--trial-id", help="of an engine's task: the trial's id; also begins the name of the state's file"
    )
    parser.add_argument("--owner", help="of an engine's task: names it; its next start goes on with the run")
    parser.add_argument(
        "--checkpoint-dir",
        type=Path,
        help="where the run leaves its state, to go on from after it made room (SIGTERM, SIGUSR2) or was killed; "
        "shared by all machines that may go on with it (default: SURGE_CHECKPOINT_DIR, else .surge/checkpoints)",
    )
    parser.add_argument(
        "--checkpoint-every-minutes",
        type=float,
        default=DEFAULT_EVERY_MINUTES,
        metavar="MINUTES",
        help=f"how often it does (default: {DEFAULT_EVERY_MINUTES:g}); 0: only when asked to make room",
    )


def _add_computing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--micro-batch-size",
        type=int,
        metavar="EXAMPLES",
        help="at most so many examples at once in each process; gradients of several make one step, with the "
        "gradient of the whole batch. Halved where memory runs out (default: the whole share of the batch)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where to compute; auto takes a GPU where torch sees one (default: auto)",
    )
