"""Whatever the table: the fit answers or says why not, and never with a NaN or a peak that was not measured."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from surge_sweeps.curves import LossCurves, build_curves
from surge_sweeps.errors import SurgeError
from surge_sweeps.fitting import SurgeFit, fit
from surge_sweeps.fitting.result import json_schema

SCHEMA = json_schema()
BAD = [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-300, 1e300, "abc", None]

RATES = st.one_of(st.sampled_from([*BAD, 0.001, 0.003, 0.01, 0.03, 0.1]), st.floats(1e-6, 10.0))
BATCHES = st.one_of(st.sampled_from([*BAD, 2.5, 2**60, 8, 16, 32, 64, 128, 256]), st.integers(1, 4096))
NUMBERS = st.one_of(st.sampled_from(BAD), st.floats(-10, 10), st.floats(0.1, 5.0))
SEEDS = st.sampled_from([0, 1, 2, None])
STATUSES = st.sampled_from(["finished", "finished", "finished", "diverged", "capped", "crashed", "running"])
ROWS = st.lists(st.tuples(RATES, BATCHES, SEEDS, STATUSES, NUMBERS), max_size=60)
# Most random rows are unusable; these fill whole cells, so that the deep parts are reached.
GRIDS = st.tuples(
    st.lists(st.sampled_from([4, 8, 16, 32, 64, 128, 256]), min_size=1, max_size=7, unique=True),
    st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=6, unique=True),
    st.integers(1, 3),
    st.integers(0, 2**31),
    st.sampled_from(["constant", "noise", "few values", "basin", "mixed"]),
)


def checked(result: SurgeFit) -> None:
    """The contract: valid by the schema, finite, and no identified peak outside the measured batch sizes."""
    data = result.to_dict()
    jsonschema.validate(data, SCHEMA)
    json.dumps(data, allow_nan=False)
    for group in result.groups:
        for target in group.targets:
            sizes = [record.batch_size for record in target.optimal_lr]
            peak = target.b_peak
            if peak.status == "identified":
                assert min(sizes) <= peak.estimate <= max(sizes)
                assert peak.low <= peak.estimate <= peak.high
            for record in target.optimal_lr:
                if record.lr is not None:
                    assert (record.low or 0.0) <= record.lr <= (record.high or math.inf)


def numeric(values: list[Any]) -> pd.Series:
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").astype(float)


def table(rows: list[tuple[Any, ...]], observable: str) -> LossCurves:
    runs = pd.DataFrame(rows, columns=["lr", "batch_size", "seed", "status", "response"])
    runs["run"] = [f"r{index}" for index in range(len(runs))]
    runs["response"] = numeric(runs["response"].tolist())
    runs["seed"] = runs["seed"].astype("Int64")
    points = pd.DataFrame({"run": pd.Series(dtype=str), "step": [], "loss": []})
    return build_curves(runs, points, observable=observable)  # type: ignore[arg-type]


def curves_of(rows: list[tuple[Any, ...]], losses: list[list[Any]]) -> LossCurves:
    runs = pd.DataFrame(rows, columns=["lr", "batch_size", "seed", "status", "response"]).drop(
        columns="response"
    )
    runs["run"] = [f"r{index}" for index in range(len(runs))]
    runs["seed"] = runs["seed"].astype("Int64")
    points = [
        {"run": f"r{index}", "step": step, "loss": loss}
        for index, curve in enumerate(losses[: len(rows)])
        for step, loss in enumerate(numeric(curve))
    ]
    return build_curves(runs, pd.DataFrame(points, columns=["run", "step", "loss"]))


@pytest.mark.parametrize("observable", ["final", "gain", "steps", "given"])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS)
def test_any_table_of_one_number_a_run(observable: str, rows: list[tuple[Any, ...]]) -> None:
    with suppress(SurgeError):
        checked(fit(table(rows, observable), n_draws=50))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, losses=st.lists(st.lists(NUMBERS, max_size=12), max_size=60), protocol=st.sampled_from(
    [None, "reach", "gain", "final"]), horizon=st.sampled_from([None, 1, 5]))  # fmt: skip
def test_any_loss_curves(
    rows: list[tuple[Any, ...]], losses: list[list[Any]], protocol: str | None, horizon: int | None
) -> None:
    with suppress(SurgeError):
        checked(fit(curves_of(rows, losses), protocol=protocol, horizon_steps=horizon, n_draws=50))


@pytest.mark.parametrize("observable", ["final", "gain", "steps", "given"])
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(grid=GRIDS)
def test_any_grid_of_one_number_a_run(observable: str, grid: tuple[Any, ...]) -> None:
    batches, rates, seeds, seed, kind = grid
    rng = np.random.default_rng(seed)
    rows = [
        (lr, batch, one, "finished", value_of(kind, lr, batch, rng))
        for batch in batches for lr in rates for one in range(seeds)
    ]  # fmt: skip
    checked(fit(table(rows, observable), n_draws=50))


def value_of(kind: str, lr: float, batch: int, rng: np.random.Generator) -> float:
    basin = float(np.log(lr / (0.01 * batch**0.5)) ** 2)
    return {
        "constant": 1.0,
        "noise": float(rng.standard_normal()),
        "few values": float(rng.integers(1, 4)),
        "basin": 3.0 + basin,
        "mixed": float(rng.choice([math.nan, 1e300, 0.0, 3.0 + basin, 3.0])),
    }[kind]
