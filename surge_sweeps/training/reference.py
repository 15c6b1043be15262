"""Common checkpoints: one reference run, saved where its loss first crosses each of the losses asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.checkpoint import Checkpoint, save_checkpoint
from surge_sweeps.training.config import TrialConfig
from surge_sweeps.training.devices import CPU
from surge_sweeps.training.loop import run_loop
from surge_sweeps.training.start import starts
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.workloads import load_workload


def train_to_losses(
    config: TrialConfig,
    losses: Sequence[float],
    folder: Path,
    *,
    evaluate_every: int = 1,
    device: torch.device = CPU,
    on_loss: Callable[[int, float], None] = lambda *_: None,
) -> list[Path]:
    """Train one run, evaluated as it goes, and save a checkpoint at the first crossing of each loss.

    Files are named WORKLOAD-MODEL-loss-LOSS-HASH.pt, with the loss asked for (the file records the one found) and the
    first 8 digits of the content hash. The same call writes the same files. The run stops at the last crossing.

    Args:
        config: the reference run; its `target_loss` is not used.
        losses: evaluation losses to cross, in any order.
        folder: made if it is not there. evaluate_every: steps from one evaluation to the next; a crossing is seen at
            the first one after it. device: where it computes. on_loss: called with step and loss of each.

    Returns:
        One path for each of `losses`, in their order.

    Raises:
        TrainingError: no losses, or some were not reached within the budget (the others are saved) or lie at or above
            the loss the run starts with.
    """
    if not losses:
        raise TrainingError("there are no losses to train to.", "Give at least one.")
    workload = load_workload(config.workload, config.settings).on(device)
    settings = _until(config, min(losses))
    start = starts(workload, [settings])[settings.seed]
    above = [loss for loss in losses if loss >= start.loss]
    if above:
        raise TrainingError(
            f"the run starts at loss {start.loss:.3g}, below {_listed(above)}.", "Ask for lower losses."
        )
    saved: dict[float, Path] = {}

    def save_crossings(trace: Trace, model: nn.Module) -> None:
        on_loss(trace.last_step, trace.last_eval_loss)
        for loss in losses:
            if loss not in saved and trace.last_eval_loss <= loss:
                saved[loss] = _save(folder, loss, trace, model)

    evaluated = [*range(0, settings.steps, evaluate_every), settings.steps]
    trace = run_loop(workload, settings, start, on_model=save_crossings, logged=evaluated)
    missing = [loss for loss in losses if loss not in saved]
    if missing:
        raise TrainingError(
            f"the reference run did not reach loss {_listed(missing)}; it {trace.status} at step {trace.last_step} "
            f"with loss {trace.last_eval_loss:.3g}.",
            "Train longer, change its learning rate, or ask for higher losses.",
        )
    return [saved[loss] for loss in losses]


def _until(config: TrialConfig, loss: float) -> TrialConfig:
    return replace(config, target_loss=loss)


def _save(folder: Path, loss: float, trace: Trace, model: nn.Module) -> Path:
    config = trace.config
    parameters = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    checkpoint = Checkpoint(
        parameters,
        config.workload,
        config.model,
        trace.last_eval_loss,
        trace.last_step,
        asdict(config.settings),
        load_workload(config.workload, config.settings).digest,
    )
    path = folder / f"{config.workload}-{config.model}-loss-{loss:g}-{checkpoint.hash[:8]}.pt"
    save_checkpoint(path, checkpoint)
    return path


def _listed(losses: Sequence[float]) -> str:
    return ", ".join(f"{loss:g}" for loss in losses)
