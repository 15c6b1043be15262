"""Sweeps that branch: the grid of one sweep from common checkpoints, for a fixed number of steps or of examples.

In a sweep from scratch, runs that reach a loss reach it from different places: their learning rate and batch size have
shaped the model by then, and what follows is theirs as well as the loss's. Runs that branch from one checkpoint differ
in what they do from there alone, and a few steps of each are enough, so that a grid costs a small part of one from
scratch. The optimizer's state is fresh at the branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from surge_sweeps.errors import SurgeError
from surge_sweeps.sweep import Sweep

#: What decides how long runs from scratch last, and where they start; a branch has its own.
_OF_A_WHOLE_RUN = ("max_steps", "max_examples", "target_loss", "steps_after_target", "init_from")
#: What shapes the learning rate over a whole run. In a branch it is constant.
_SHAPE = ("schedule", "warmup_steps", "warmup_examples")

#: Called with step and evaluation loss of the reference run.
OnLoss = Callable[[int, float], None]


@dataclass(frozen=True)
class Reference:
    """The one run whose checkpoints the branches start from.

    Attributes:
        lr, batch_size, seed: its own. max_steps: the longest that it trains. evaluate_every: its loss is looked at
            after so many steps, so a checkpoint lies at most so many steps behind its loss.
    """

    lr: float
    batch_size: int
    seed: int
    max_steps: int
    evaluate_every: int = 1


def default_reference(sweep: Sweep, max_steps: int | None = None) -> Reference:
    """A run from the middle of a sweep's grid, with a seed that the grid does not have.

    Args:
        max_steps: default: the sweep's own.

    Raises:
        SurgeError: the sweep does not say how long its runs last.

    >>> sweep = Sweep(lr=(0.001, 0.01, 0.1), batch_size=(8, 16), seed=(0, 1), constants={"max_steps": 500})
    >>> default_reference(sweep)
    Reference(lr=0.01, batch_size=16, seed=2, max_steps=500, evaluate_every=1)
    """
    steps = max_steps or sweep.constants.get("max_steps")
    if steps is None:
        raise SurgeError(
            f"the sweep {sweep.name!r} states no max_steps.", "Say how long the reference run may train."
        )
    batch_size = sorted(sweep.batch_size)[len(sweep.batch_size) // 2]
    return Reference(sorted(sweep.lr)[len(sweep.lr) // 2], batch_size, max(sweep.seed) + 1, int(steps))


def make_checkpoints(
    sweep: Sweep,
    reference: Reference,
    losses: Sequence[float],
    folder: Path,
    on_loss: OnLoss = lambda *_: None,
    *,
    device: str = "auto",
) -> list[Path]:
    """Train the reference run and save a checkpoint where it reaches each of the losses; see `train_to_losses`.

    Args:
        device: where it computes, see `pick_device`.

    Raises:
        SurgeError: the sweep is one of a script of the user's own, or it branches itself.
        TrainingError: see `train_to_losses`.
    """
    if not sweep.is_builtin:
        raise SurgeError(
            f"the sweep {sweep.name!r} calls a script of its own.",
            "Let the script save and load checkpoints, and give it the file as a constant parameter of the sweep.",
        )
    if "init_from" in sweep.constants:
        raise SurgeError(f"the sweep {sweep.name!r} branches already.", "Give the one from scratch.")
    from surge_sweeps.training import TrialConfig, train_to_losses
    from surge_sweeps.training.devices import pick_device

    settings = {name: value for name, value in sweep.constants.items() if name not in _OF_A_WHOLE_RUN}
    own = {"lr": reference.lr, "batch_size": reference.batch_size, "seed": reference.seed}
    config = TrialConfig.from_parameters({**settings, **own, "max_steps": reference.max_steps})
    return train_to_losses(
        config,
        losses,
        folder,
        evaluate_every=reference.evaluate_every,
        on_loss=on_loss,
        device=pick_device(device),
    )


def branch_sweep(
    sweep: Sweep, checkpoint: Path, loss: float, *, steps: int | None = None, examples: int | None = None
) -> Sweep:
    """The grid of a sweep from a checkpoint at `loss`, each run for `steps`, or for `examples`, at a constant rate.

    Raises:
        SurgeError: both or neither are given.

    >>> whole = Sweep(lr=(0.1,), batch_size=(8,), seed=(0,), constants={"workload": "digits", "target_loss": 0.2})
    >>> branch = branch_sweep(whole, Path("at.pt"), 0.8, steps=10)
    >>> branch.name, branch.constants
    ('surge-from-0.8', {'workload': 'digits', 'init_from': 'at.pt', 'max_steps': 10})
    """
    if (steps is None) == (examples is None):
        raise SurgeError("a branch ends after a number of steps or of examples.", "Give one of the two.")
    dropped = (*_OF_A_WHOLE_RUN, *_SHAPE)
    settings = {name: value for name, value in sweep.constants.items() if name not in dropped}
    settings["init_from"] = checkpoint.as_posix()
    if steps is not None:
        settings["max_steps"] = steps
    if examples is not None:
        settings["max_examples"] = examples
    return replace(sweep, constants=settings, name=f"{sweep.name}-from-{loss:g}")
