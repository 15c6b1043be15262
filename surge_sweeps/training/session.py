"""One run made ready to train: where it computes, its model at the start, its optimizer and its steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.devices import CPU
from surge_sweeps.training.micro_batches import cut_batch
from surge_sweeps.training.optimizers import Stepper, build_optimizer, optimizer_spec
from surge_sweeps.training.preflight import oversize
from surge_sweeps.training.processes import ALONE, Processes
from surge_sweeps.training.start import Start, starts
from surge_sweeps.training.steps import Steps, Wishes
from surge_sweeps.training.workloads import load_workload
from surge_sweeps.training.workloads.base import Workload


@dataclass(frozen=True)
class Setup:
    """How a run is computed; none of it is a parameter of the trial.

    Attributes:
        device: where. micro_batch_size: examples that one process holds at once at most; None: its share of a batch.
        processes: that train the run together.
    """

    device: torch.device = CPU
    micro_batch_size: int | None = None
    processes: Processes = ALONE


@dataclass(frozen=True, eq=False)
class Session:
    """What is needed to train one run; `model` and `optimizer` are its own."""

    workload: Workload
    start: Start
    model: nn.Module
    optimizer: Stepper
    steps: Steps


def open_session(
    config: TrialConfig,
    setup: Setup,
    say: Callable[[str], None] = lambda _: None,
    wishes: Wishes = tuple,
) -> Session:
    """Make a run ready.

    Args:
        say, wishes: see `Steps`.

    Raises:
        TrainingError: the batch cannot be cut as asked, or the checkpoint to branch from cannot be used.
        MissingExtraError: a package that the workload or the optimizer needs is not installed.
    """
    cut = cut_batch(config.batch_size, setup.micro_batch_size, setup.processes.rank.size)
    if cut.size < config.batch_size and not optimizer_spec(config.optimizer).can_accumulate:
        raise TrainingError(
            f"the optimizer {config.optimizer!r} needs the whole batch at once, in one process.",
            "Start it in one process and without --micro-batch-size, or take another optimizer.",
        )
    workload = load_workload(config.workload, config.settings).on(setup.device)
    for note in oversize(config, workload.train_examples):
        say(note)
    start = starts(workload, [config])[config.seed]
    # Machines may round differently, and what a loss decides must be decided alike.
    start = replace(start, loss=setup.processes.gather(start.loss)[0][0])
    model = copy.deepcopy(start.model)
    optimizer = build_optimizer(config.optimizer, model, config.lr, config.hyper_parameters())
    steps = Steps(
        workload,
        model,
        optimizer,
        cut,
        processes=setup.processes,
        say=say,
        wishes=wishes,
        can_accumulate=optimizer_spec(config.optimizer).can_accumulate,
        precision=config.precision,
        compile=config.compile,
    )
    return Session(workload, start, model, optimizer, steps)
