"""Published learning-rate x batch-size results, read as a user would, against what their authors found.

The files are other people's and are not part of this project; `benchmarks.recovery --published FOLDER` and
`tests/test_published.py` take them from a folder that may not be there.

    steplaw_dense_215M_4B_20B.csv         Step Law, arXiv 2503.04715: final losses of AdamW language-model runs
    zhang_steps_to_goal_85M_302M.csv      H. Zhang et al., arXiv 2410.21676: least steps to a goal loss
    mnist_sgd_one_step_checkpoint100.csv  one SGD step from a checkpoint at 31 step sizes, 10 minibatches each
    signsgd_toy_tuned_eta.csv             momentum sign descent on a quadratic, step size tuned per batch size
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import surge_sweeps as ss
from surge_sweeps.fitting.result import SurgeFit, TargetFit
from surge_sweeps.report.words import interval_text


def step_law(folder: Path, *, draws: int = 2000) -> SurgeFit:
    """Final losses at two budgets of data, one run a cell."""
    curves = ss.collect(
        str(folder / "steplaw_dense_215M_4B_20B.csv"), batch_size="bs", loss="smooth loss", group_by=["D"],
        batch_unit="sequences",
    )  # fmt: skip
    return ss.fit(curves, n_draws=draws)


def steps_to_goal(folder: Path) -> SurgeFit:
    """Least steps to a goal of two models, learning rates already tuned."""
    curves = ss.collect(
        str(folder / "zhang_steps_to_goal_85M_302M.csv"), batch_size="batch_size_seqs", group_by=["model"],
        steps_to_goal="min_steps_to_goal", batch_unit="sequences",
    )  # fmt: skip
    return ss.fit(curves)


def one_sgd_step(folder: Path, *, draws: int = 2000) -> SurgeFit:
    """Loss decrease of one SGD step."""
    curves = ss.collect(
        str(folder / "mnist_sgd_one_step_checkpoint100.csv"), lr="epsilon", seed="sample_id", gain="delta_loss",
        group_by=[],
    )  # fmt: skip
    return ss.fit(curves, n_draws=draws, horizon_steps=1)


def tuned_sign_descent(folder: Path) -> SurgeFit:
    """One tuned step size per batch size."""
    curves = ss.collect(
        str(folder / "signsgd_toy_tuned_eta.csv"), batch_size="batch", optimal_lr="eta_tuned", group_by=[]
    )
    return ss.fit(curves)


def results(folder: Path) -> Iterator[tuple[str, str, str]]:
    """Name, what was found, what a right analysis finds."""
    wanted = {
        4000000000: "nearly flat above a batch size of about 200",
        20000000000: "rises, turns near 256; a fall after it is small and must not be a confident surge",
    }
    for group in step_law(folder).groups:
        tokens = int(group.group["D"] or 0)
        yield f"Step Law, {tokens:.0e} tokens", _told(group.targets[0]), wanted[tokens]
    crits = {"85M": "E_min/S_min 2191 after their corrections", "302M": "E_min/S_min 5433"}
    for group in steps_to_goal(folder).groups:
        tradeoff = group.targets[0].tradeoff
        found = "none" if tradeoff is None else f"B_crit {interval_text(tradeoff.b_crit)}"
        yield f"Zhang {group.group['model']}", found, crits[str(group.group["model"])]
    target = one_sgd_step(folder).groups[0].targets[0]
    law = next(law for law in target.laws if law.name == "sgd_saturation")
    numbers = f"eps_max {law.parameters['eps_max']:.4f}, B_noise {interval_text(target.b_noise)}"
    yield "One SGD step, MNIST", f"{target.verdict}, {numbers}", "saturation, eps_max 0.1475, B_noise 49.8"
    target = tuned_sign_descent(folder).groups[0].targets[0]
    law = next(law for law in target.laws if law.name == "power")
    exponent = f"exponent of the power law {law.parameters['alpha']:.3f}"
    yield "Tuned sign descent", f"{target.verdict}, {exponent}", "power, exponent 0.588"


def _told(target: TargetFit) -> str:
    rates = ", ".join(f"{one.batch_size}: {one.lr:.2g}" for one in target.optimal_lr if one.lr is not None)
    return f"{target.verdict}, B_peak {interval_text(target.b_peak)}; optimal LR {rates}"
