"""What is looked at once before the trials of a sweep begin: their data, and whether these fit the settings.

A fault that no trial can go around is then told once, and not by every trial, after minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from surge_sweeps.errors import MissingExtraError
from surge_sweeps.training.checkpoint import load_checkpoint, restore
from surge_sweeps.training.compilation import check_compilable, check_compiler, is_compiled
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.devices import CPU, pick_device
from surge_sweeps.training.optimizers import build_optimizer
from surge_sweeps.training.workloads import load_workload, workload_spec
from surge_sweeps.training.workloads.base import Workload


def check_data(configs: Sequence[TrialConfig], *, is_here: bool) -> list[str]:
    """Read what trials train on, and what they start from.

    What has to be decoded or tokenised is kept: trials in other processes find it.

    Args:
        configs: of one sweep, one for each batch size: nothing else that they differ in is looked at.
        is_here: the trials run on this machine; else only data that every machine has are looked at.

    Returns:
        A sentence for each batch size that exceeds its data set, see `oversize`.

    Raises:
        UnknownNameError, TrainingError: the data are missing, damaged or too small, or no model of that shape takes
            them; or the checkpoint to branch from cannot be read or is of another network.
        MissingExtraError: a package that the trials need on this machine is not installed.

    >>> configs = [TrialConfig(lr=0.1, batch_size=batch_size, max_steps=3) for batch_size in (32, 2874)]
    >>> check_data(configs, is_here=True)
    ['a batch of 2,874 examples is 2.0 times the data set of 1,437; the run sees it 6.0 times.']
    """
    first = configs[0]
    if not is_here and "data" in workload_spec(first.workload).settings:
        return []
    try:
        workload = load_workload(first.workload, first.settings)
    except MissingExtraError:
        if is_here:
            raise
        return []
    if is_here:
        _check_start(first, workload)
    return [note for config in configs for note in oversize(config, workload.train_examples)]


def _check_start(config: TrialConfig, workload: Workload) -> None:
    # For its package alone: what holds it is imported where one is made.
    build_optimizer(config.optimizer, nn.Linear(1, 1), config.lr, config.hyper_parameters())
    needs_model = config.init_from is not None or is_compiled(config.compile)
    if not needs_model and not workload_spec(config.workload).tries_models:
        return
    model = workload.build_model(config.model, torch.Generator())
    if config.init_from is not None:
        restore(load_checkpoint(Path(config.init_from)), model, config, workload.digest)
    check_compilable(model, config.compile)
    if pick_device("auto") == CPU:
        # On a GPU the launching process would have to take some of its memory; there the first trial tells.
        check_compiler(config.compile)


def oversize(config: TrialConfig, train_examples: int | None) -> list[str]:
    """A sentence on a batch that is larger than the data set, which is allowed; else none.

    Args:
        train_examples: of the data set; None: an endless stream.
    """
    if train_examples is None or config.batch_size <= train_examples:
        return []
    return [
        f"a batch of {config.batch_size:,} examples is {config.batch_size / train_examples:.1f} times the data set of"
        f" {train_examples:,}; the run sees it {config.steps * config.batch_size / train_examples:.1f} times."
    ]
