"""The demo's plan: real training runs on scikit-learn's handwritten digits, small enough for two cores and minutes.

Two questions, two kinds of sweep. From scratch, sign descent (the setting that Li et al. 2024 derive the surge for) and
AdamW, every run until it reaches a loss or its budget: optimal learning rate and steps for reaching each loss, and the
trade-off of steps against examples. Branched, sign descent from common checkpoints at falling losses, a few steps each
with many minibatch seeds: the paper's protocol (their section 3.3) without its confound of differing start points.
"""

from __future__ import annotations

from pathlib import Path

from surge_sweeps.axes import batch_sizes, learning_rates
from surge_sweeps.sweep import Scalar, Sweep

PROJECT = "digits-demo"

BATCH_SIZES = batch_sizes("4:512:2")
MODEL: dict[str, Scalar] = {"workload": "digits", "model": "mlp"}

#: From scratch: a run stops at its target loss, or after this much.
SCRATCH_BUDGET: dict[str, Scalar] = {"max_steps": 1500, "max_examples": 80_000}
SCRATCH_SEEDS = 5

#: The reference run whose checkpoints the branches start from.
REFERENCE: dict[str, Scalar] = {"optimizer": "sign", "lr": 0.001, "batch_size": 64, "seed": 1000, "max_steps": 3000}
#: Held-out loss of each common checkpoint -> learning rates of its branches; the optimum falls with the loss.
BRANCHES = {1.8: "0.0008:0.04:12", 0.8: "0.0002:0.016:12", 0.4: "0.0001:0.008:12"}
BRANCH_STEPS = 10
BRANCH_SEEDS = 20


def scratch_sweeps() -> list[Sweep]:
    """The sweeps from scratch: sign descent and AdamW, each with its own learning rates and lowest loss."""
    settings = (("sign", "0.0005:0.03:12", 0.3), ("adamw", "0.001:0.15:12", 0.2))
    return [
        Sweep(
            lr=learning_rates(lr),
            batch_size=BATCH_SIZES,
            seed=tuple(range(SCRATCH_SEEDS)),
            constants={**MODEL, "optimizer": optimizer, **SCRATCH_BUDGET, "target_loss": target_loss},
            name=f"digits-{optimizer}",
        )
        for optimizer, lr, target_loss in settings
    ]


def branch_sweep(checkpoint: Path, loss: float) -> Sweep:
    """Sign descent for a few steps from a common checkpoint at `loss`; the seed orders the minibatches."""
    return Sweep(
        lr=learning_rates(BRANCHES[loss]),
        batch_size=BATCH_SIZES,
        seed=tuple(range(BRANCH_SEEDS)),
        constants={**MODEL, "optimizer": "sign", "init_from": checkpoint.as_posix(), "max_steps": BRANCH_STEPS},
        name=f"digits-sign-branch-{loss:g}",
    )


def plan_demo(folder: Path) -> list[Sweep]:
    """Make the common checkpoints, and write every sweep of the demo to `folder`.

    Raises:
        MissingExtraError: torch or scikit-learn is not installed.
    """
    from surge_sweeps.training import TrialConfig, train_to_losses

    reference = TrialConfig.from_parameters({**MODEL, **REFERENCE})
    checkpoints = train_to_losses(reference, tuple(BRANCHES), folder / "checkpoints")
    sweeps = scratch_sweeps()
    sweeps += [branch_sweep(path, loss) for path, loss in zip(checkpoints, BRANCHES, strict=True)]
    for sweep in sweeps:
        path = folder / f"{sweep.name}.yaml"
        sweep.write(path, header=f"Run it with: surge-sweep launch {path.as_posix()} --project {PROJECT}")
    return sweeps
