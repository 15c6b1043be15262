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
SCRATCH_SEEDS = 8

#: The reference run whose checkpoints the branches start from.
REFERENCE: dict[str, Scalar] = {
    "optimizer": "sign",
    "lr": 0.001,
    "batch_size": 64,
    "seed": 1000,
    "max_steps": 3000,
}
#: Held-out loss of each common checkpoint -> learning rates of its branches; the optimum falls with the loss.
BRANCHES = {1.8: "0.0012:0.025:10", 0.8: "0.00015:0.01:10", 0.4: "0.00004:0.006:10"}
BRANCH_STEPS = 10
#: Batch sizes and the number of minibatch orders: small batches are noisy and cheap, so they get more.
BRANCH_SEEDS = {(4, 8, 16): 40, (32, 64, 128, 256, 512): 20}


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


def branch_sweeps(checkpoint: Path, loss: float) -> list[Sweep]:
    """Sign descent for a few steps from a common checkpoint at `loss`; the seed orders the minibatches."""
    constants: dict[str, Scalar] = {"init_from": checkpoint.as_posix(), "max_steps": BRANCH_STEPS}
    return [
        Sweep(
            lr=learning_rates(BRANCHES[loss]),
            batch_size=sizes,
            seed=tuple(range(seeds)),
            constants={**MODEL, "optimizer": "sign", **constants},
            name=f"digits-sign-from-{loss:g}-batch-{sizes[0]}-to-{sizes[-1]}",
        )
        for sizes, seeds in BRANCH_SEEDS.items()
    ]


def plan_demo(folder: Path) -> list[Sweep]:
    """Make the common checkpoints, unless they are there, and write every sweep of the demo to `folder`.

    Raises:
        MissingExtraError: torch or scikit-learn is not installed.
    """
    checkpoints = _checkpoints(folder / "checkpoints")
    sweeps = scratch_sweeps()
    for path, loss in zip(checkpoints, BRANCHES, strict=True):
        sweeps += branch_sweeps(path, loss)
    for sweep in sweeps:
        path = folder / f"{sweep.name}.yaml"
        sweep.write(path, header=f"Run it with: surge-sweep launch {path.as_posix()} --project {PROJECT}")
    return sweeps


def _checkpoints(folder: Path) -> list[Path]:
    """One checkpoint for each loss of `BRANCHES`. A file's name ends in a hash of its content, so a name is enough."""
    found = [
        sorted(folder.glob(f"{MODEL['workload']}-{MODEL['model']}-loss-{loss:g}-*.pt")) for loss in BRANCHES
    ]
    if all(len(paths) == 1 for paths in found):
        return [paths[0] for paths in found]
    from surge_sweeps.training import TrialConfig, train_to_losses

    return train_to_losses(TrialConfig.from_parameters({**MODEL, **REFERENCE}), tuple(BRANCHES), folder)
