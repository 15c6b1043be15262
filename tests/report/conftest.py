"""Fits built by hand: two optimizers over batch sizes 4 to 512, as a demo project would give them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from surge_sweeps.fitting.result import (
    DriftFit,
    EdgePoint,
    GroupFit,
    Interval,
    LawFit,
    OptimalLR,
    PhaseRecord,
    ProblemRecord,
    ScheduleRecord,
    Slope,
    SurgeFit,
    TargetFit,
    TradeoffFit,
)
from surge_sweeps.theory import LAWS

BATCH_SIZES = [4, 8, 16, 32, 64, 128, 256, 512]
LEARNING_RATES = [float(f"{rate:.4g}") for rate in np.geomspace(3e-4, 0.3, 12)]
PEAK = "batch size where the selected law is highest"
CRIT = "E_min / S_min of the trade-off between steps and examples"
NOISE = "B_noise of the selected law"


class Case(NamedTuple):
    fit: SurgeFit
    cells: pd.DataFrame


def interval(
    estimate: float | None, low: float | None, high: float | None, status: str, definition: str
) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, status=status, definition=definition)  # type: ignore[arg-type]


def optimum(batch_size: int, lr: float, spread: float, steps: float | None) -> OptimalLR:
    """An optimum with its interval; beyond the ends of the grid it becomes a bound."""
    low, high = lr / spread, lr * spread
    common: dict[str, Any] = {"batch_size": batch_size, "runs": 48, "steps": steps, "flat_band": (low, high)}
    if lr >= LEARNING_RATES[-1]:
        return OptimalLR(lr=LEARNING_RATES[-1], low=low, high=None, status="edge_high", **common)
    return OptimalLR(lr=lr, low=low, high=None if high > LEARNING_RATES[-1] else high, status="ok", **common)


def weights(**shares: float) -> list[LawFit]:
    parameters: dict[str, dict[str, float]] = {
        "constant": {"a": 0.011},
        "sqrt": {"a": 0.0014},
        "linear": {"a": 1e-4},
        "power": {"a": 0.003, "alpha": 0.31},
        "sgd_saturation": {"eps_max": 0.02, "b_noise": 11.0},
        "adam_saturation": {"a": 0.024, "b_s": 40.0},
        "surge": {"eps_max": 0.021, "b_noise": 30.0},
        "surge_plateau": {"a": 0.09, "b_s": 160.0, "kappa": 6.0},
    }
    return [
        LawFit(
            name=name,
            parameters=parameters[name],
            aicc=round(-14 - 2 * math.log(max(share, 1e-6)), 3),
            weight=share,
        )
        for name, share in shares.items()
    ]


def with_parameters(laws: list[LawFit], **parameters: dict[str, float]) -> list[LawFit]:
    return [law.model_copy(update={"parameters": parameters.get(law.name, law.parameters)}) for law in laws]


def target(
    protocol: str,
    loss: float,
    law: str,
    parameters: dict[str, float],
    laws: list[LawFit],
    *,
    verdict: str,
    spread: float = 1.15,
    b_peak: Interval | None = None,
    b_crit: float | None = None,
    reasons: list[str] | None = None,
    seed: int = 0,
) -> TargetFit:
    noise = np.random.default_rng(seed).normal(0, math.log(spread) / 2, len(BATCH_SIZES))
    rates = LAWS[law].evaluate(np.array(BATCH_SIZES, float), **parameters) * np.exp(noise)
    s_min = 40 / loss
    steps = [s_min * (1 + b_crit / size) if b_crit else None for size in BATCH_SIZES]
    tradeoff = None
    if b_crit:
        inside = b_crit < 170
        crit = interval(
            b_crit if inside else None, b_crit * 0.7 if inside else 170, b_crit * 1.5 if inside else None,
            "identified" if inside else "lower_bound", CRIT,
        )  # fmt: skip
        tradeoff = TradeoffFit(
            s_min=s_min, s_min_low=s_min * 0.8, s_min_high=s_min * 1.2,
            e_min=s_min * b_crit, e_min_low=s_min * b_crit * 0.9, e_min_high=s_min * b_crit * 1.1, b_crit=crit,
        )  # fmt: skip
    return TargetFit(
        protocol=protocol,  # type: ignore[arg-type]
        loss=loss,
        horizon_steps=10 if protocol == "gain" else None,
        start="checkpoint" if protocol == "gain" else "scratch",
        optimal_lr=[
            optimum(size, float(rate), spread, step)
            for size, rate, step in zip(BATCH_SIZES, rates, steps, strict=True)
        ],
        stability_edge=[EdgePoint(batch_size=size, lr=LEARNING_RATES[-2]) for size in BATCH_SIZES],
        tradeoff=tradeoff,
        laws=laws,
        verdict=verdict,  # type: ignore[arg-type]
        reasons=reasons or ["The best law beats the next class by 7.2 in AICc; 6 are asked."],
        b_peak=b_peak or interval(None, None, None, "not_identified", PEAK),
        b_noise=interval(None, None, None, "not_identified", NOISE),
        minimum_detectable_kappa=3.2,
    )


def sign_group() -> GroupFit:
    surge = weights(
        surge=0.71, surge_plateau=0.27, adam_saturation=0.015, power=0.005, sqrt=0.0, linear=0.0, constant=0.0
    )
    reach = []
    for place, (loss, b_noise, eps_max) in enumerate(
        [(1.8, 14, 0.033), (1.2, 24, 0.026), (0.6, 45, 0.019), (0.3, 90, 0.012)]
    ):
        parameters = {"eps_max": eps_max, "b_noise": float(b_noise)}
        plateau = {"a": eps_max * 4, "b_s": b_noise * 5.0, "kappa": 6.0}
        sqrt = {"a": 2 * eps_max / math.sqrt(b_noise)}
        saturation = {"a": eps_max * 1.05, "b_s": b_noise * 0.8}
        reach.append(
            target(
                "reach", loss, "surge", parameters,
                with_parameters(surge, surge=parameters, surge_plateau=plateau, adam_saturation=saturation, sqrt=sqrt),
                verdict="surge" if place < 3 else "inconclusive",
                b_peak=interval(b_noise, b_noise * 0.6, b_noise * 1.7, "identified", PEAK),
                b_crit=[20.0, 34.0, 70.0, 400.0][place], spread=1.12 + 0.12 * place, seed=place,
            )
        )  # fmt: skip
    gain = []
    for place, (loss, b_noise, eps_max) in enumerate(
        [(1.84, 16, 0.031), (0.73, 32, 0.021), (0.16, 600, 0.009)]
    ):
        parameters = {"eps_max": eps_max, "b_noise": float(b_noise)}
        known = place < 2
        gain.append(
            target(
                "gain", loss, "surge", parameters,
                with_parameters(
                    surge if known else weights(sqrt=0.44, power=0.31, surge=0.18, adam_saturation=0.07),
                    surge=parameters, sqrt={"a": 2 * eps_max / math.sqrt(b_noise)},
                    power={"a": eps_max / 12, "alpha": 0.38}, adam_saturation={"a": eps_max, "b_s": b_noise / 4},
                    surge_plateau={"a": eps_max * 4, "b_s": b_noise * 5.0, "kappa": 6.0},
                ),
                verdict="surge" if known else "inconclusive",
                b_peak=interval(b_noise, b_noise * 0.55, b_noise * 1.9, "identified", PEAK)
                if known
                else interval(None, 210, None, "lower_bound", PEAK),
                spread=1.1 if known else 1.45, seed=10 + place,
                reasons=None if known else ["sqrt and power fit within 0.7 in AICc.", "B_peak lies above 210 only."],
            )
        )  # fmt: skip
    rows = [
        (0, 2.3, 16, 0.03, 1.15),
        (12e3, 1.2, 32, 0.0241, 1.2),
        (31e3, 0.6, 64, 0.0182, 1.3),
        (90e3, None, 64, 0.016, 1.6),
    ]
    phases = [
        PhaseRecord(
            from_examples=start, loss=loss, batch_size=size, lr=lr, lr_low=lr / spread, lr_high=lr * spread,
            status="measured" if loss else "extrapolated",
        )
        for start, loss, size, lr, spread in rows
    ]  # fmt: skip
    assumptions = [
        "Batch sizes follow B_crit, rounded down to powers of two, and never shrink.",
        "Beyond 90k examples the last measured loss is carried on.",
    ]
    return GroupFit(
        group={"optimizer": "sign"},
        targets=[*reach, *gain],
        drift=DriftFit(
            b_peak=Slope(exponent=0.98, low=0.5, high=1.5, p_value=0.0004, status="identified"),
            b_crit=Slope(exponent=0.9, low=-0.1, high=1.9, p_value=0.08, status="identified"),
        ),
        schedule=ScheduleRecord(batch_unit="examples", law="surge", phases=phases, assumptions=assumptions),
    )


def adamw_group() -> GroupFit:
    """Square-root growth that reaches the edge of the grid at the largest batch sizes; no schedule."""
    shares = weights(sqrt=0.47, power=0.28, adam_saturation=0.2, surge=0.04, constant=0.0)
    targets = []
    for place, (loss, scale) in enumerate([(1.8, 0.02), (1.2, 0.0105), (0.6, 0.0055), (0.3, 0.0028)]):
        laws = with_parameters(
            shares, sqrt={"a": scale}, power={"a": scale * 1.1, "alpha": 0.47},
            adam_saturation={"a": scale * 40, "b_s": 1600.0}, surge={"eps_max": scale * 16, "b_noise": 900.0},
        )  # fmt: skip
        reasons = [
            "The optimum lies at the upper edge of the grid at the largest batch sizes, which decide.",
            "sqrt, power and saturation lie within 2 in AICc.",
        ]
        edge = place < 2
        targets.append(
            target(
                "reach", loss, "sqrt", {"a": scale}, laws,
                verdict="inconclusive" if edge else "sqrt", reasons=reasons if edge else None,
                b_peak=interval(None, 300.0, None, "lower_bound", PEAK), b_crit=[45.0, 60.0, 82.0, 110.0][place],
                spread=1.3, seed=20 + place,
            )
        )  # fmt: skip
    return GroupFit(
        group={"optimizer": "adamw"},
        targets=targets,
        drift=DriftFit(
            b_peak=Slope(), b_crit=Slope(exponent=0.5, low=0.2, high=0.8, p_value=0.002, status="identified")
        ),
        schedule=None,
    )


def cells_of(fit: SurgeFit) -> pd.DataFrame:
    """Bowls around the optima; the largest learning rates diverge, the smallest never get there."""
    rows = []
    for group, found in enumerate(fit.groups):
        for place, one in enumerate(found.targets):
            for best in one.optimal_lr:
                for rate in LEARNING_RATES:
                    rows.append((group, place, best.batch_size, rate, *response(one, best, rate)))
    return pd.DataFrame(rows, columns=["group", "target", "batch_size", "lr", "response", "runs", "censored"])


def response(one: TargetFit, best: OptimalLR, rate: float) -> tuple[float, int, int]:
    distance = math.log(rate / (best.lr or 0.01))
    runs = 4 if one.protocol == "reach" else 20
    if rate == LEARNING_RATES[-1] or distance < -3.2:
        return math.nan, runs, runs
    if one.protocol == "gain":
        return 0.2 * (one.loss or 1) * (1 - 0.35 * distance**2), runs, 0
    return (best.steps or 100) * (1 + 0.7 * distance**2), runs, int(distance > 2)


@pytest.fixture
def demo() -> Case:
    problems = [
        ProblemRecord(run=None, what="3 runs are still running and were left out"),
        *(
            ProblemRecord(
                run=f"sign-b{size}-lr0.3-seed{seed}", what="diverged; counted as not reaching any loss"
            )
            for size in BATCH_SIZES
            for seed in range(4)
        ),
        ProblemRecord(
            run="adamw-b4-lr0.001-seed2", what="2 repeated steps dropped, the last value of each kept"
        ),
    ]
    fit = SurgeFit(
        project="digits-demo",
        source="sqlite:///mlflow.db",
        batch_unit="examples",
        problems=problems,
        groups=[sign_group(), adamw_group()],
    )
    return Case(fit, cells_of(fit))


@pytest.fixture
def empty() -> Case:
    fit = SurgeFit(
        project="nothing-yet",
        source="sqlite:///mlflow.db",
        batch_unit="examples",
        problems=[ProblemRecord(run=None, what="all 12 runs diverged; run smaller learning rates")],
        groups=[],
    )
    return Case(fit, cells_of(fit))


def bare_target(**changes: Any) -> TargetFit:
    """A target about which nothing could be found."""
    base = TargetFit(
        protocol="reach", loss=0.5, horizon_steps=None, start="scratch", stability_edge=[], tradeoff=None, laws=[],
        optimal_lr=[
            OptimalLR(batch_size=8, lr=None, low=None, high=None, status="too_few", runs=2, flat_band=(None, None)),
            OptimalLR(batch_size=16, lr=None, low=None, high=None, status="diverged", runs=6, flat_band=(None, None)),
        ],
        verdict="inconclusive", reasons=["fewer than three learning rates at every batch size"],
        b_peak=interval(None, None, None, "not_identified", PEAK),
        b_noise=interval(None, None, None, "not_identified", NOISE), minimum_detectable_kappa=None,
    )  # fmt: skip
    return base.model_copy(update=changes)


@pytest.fixture
def bare() -> Case:
    """One group, one target, no optimum anywhere."""
    group = GroupFit(group={}, targets=[bare_target()], drift=DriftFit(b_peak=Slope(), b_crit=Slope()))
    fit = SurgeFit(project="bare", source="", batch_unit="tokens", problems=[], groups=[group])
    return Case(fit, cells_of(fit).assign(response=math.nan))


EVIL = "<script>alert(1)</script>"


@pytest.fixture
def hostile(demo: Case) -> Case:
    """Names that try to be markup, paths or YAML comments."""
    group = demo.fit.groups[0].model_copy(
        update={"group": {"opt\nimizer": EVIL, "x": "</script><img src=x onerror=alert(1)>"}}
    )
    fit = demo.fit.model_copy(
        update={
            "project": f"{EVIL}|`x`\n# heading",
            "source": "https://example.org/?q=<b>",
            "groups": [group],
            "problems": [ProblemRecord(run=EVIL, what="{{ 7 * 7 }} <b>bold</b>\n# not: a heading")],
        }
    )
    return Case(fit, demo.cells[demo.cells["group"] == 0])
