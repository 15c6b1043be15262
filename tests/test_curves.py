"""The loss-at-step table: checked, sorted, repaired, and every repair named."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.curves import LossCurves, Problem, build_curves, curves_of_runs
from surge_sweeps.errors import SurgeError
from surge_sweeps.point_columns import PointColumns


def runs(*names: str, **columns: Any) -> pd.DataFrame:
    count = len(names)
    defaults = {
        "lr": [0.1] * count,
        "batch_size": [8] * count,
        "seed": [0] * count,
        "status": ["finished"] * count,
    }
    return pd.DataFrame({"run": list(names), **defaults, **columns})


def points(*rows: tuple[str, int, float]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=["run", "step", "loss"])


def test_nan_and_infinities_are_kept() -> None:
    values = [math.nan, math.inf, -math.inf]
    curves = build_curves(runs("a"), points(*[("a", step, value) for step, value in enumerate(values)]))
    np.testing.assert_array_equal(curves.points["loss"], values)


def test_given_examples_win_and_only_gaps_are_filled() -> None:
    table = points(("a", 1, 1.0), ("a", 2, 1.0)).assign(examples=[5.0, np.nan])
    assert build_curves(runs("a"), table).points["examples"].tolist() == [5.0, 16.0]


@pytest.mark.parametrize(
    "column", [{"lr": [0.1, -1.0]}, {"lr": [0.1, math.inf]}, {"lr": [0.1, None]}, {"batch_size": [8, 0]}]
)
def test_runs_without_a_learning_rate_or_batch_size_are_named(column: dict[str, Any]) -> None:
    curves = build_curves(runs("a", "b", **column), points(("a", 0, 1.0), ("b", 0, 1.0)))
    assert curves.runs["run"].tolist() == ["a"]
    assert curves.points["run"].tolist() == ["a"]
    assert [problem.run for problem in curves.problems] == ["b"]


def test_examples_at_an_absurd_step_do_not_overflow() -> None:
    step, batch_size = 2**62, 64
    table = runs("a").assign(batch_size=batch_size)
    made = build_curves(table, points(("a", step, 1.0)))
    assert made.points["examples"].tolist() == [2.0**68]
    columns = PointColumns()
    columns.add("a", np.array([step]), np.array([1.0]))
    quick = curves_of_runs(
        table, columns, problems=(), project="", source="", loss_name="", batch_unit="examples",
        read_as={}, route="",
    )  # fmt: skip
    assert quick.points["examples"].tolist() == [2.0**68]


def test_a_batch_size_is_never_rounded() -> None:
    curves = build_curves(runs("a", "b", batch_size=[8, 8.5]), points(("a", 0, 1.0)))
    assert curves.problems == (Problem("b", "left out: the batch size is not a whole number"),)


def test_missing_columns_and_double_runs_are_errors() -> None:
    with pytest.raises(SurgeError, match="no column 'lr'"):
        build_curves(runs("a").drop(columns="lr"), points())
    with pytest.raises(SurgeError, match="'a' stands twice"):
        build_curves(runs("a", "a"), points())


def test_an_empty_table_is_a_table() -> None:
    curves = build_curves(runs(), points())
    assert (len(curves.runs), len(curves.points), len(curves.results().runs)) == (0, 0, 0)


def test_results_leave_unfinished_work_out() -> None:
    status = ["finished", "diverged", "capped", "crashed", "running", "stale"]
    names = list("abcdef")
    curves = build_curves(runs(*names, status=status), points(*[(name, 0, 1.0) for name in names]))
    results = curves.results()
    assert results.runs["run"].tolist() == ["a", "b", "c"]
    assert results.points["run"].tolist() == ["a", "b", "c"]
    assert isinstance(curves.select(curves.runs["status"] == "stale"), LossCurves)


def test_the_tables_given_are_not_changed() -> None:
    table, logged = runs("b", "a"), points(("b", 1, 1.0), ("a", 0, 2.0))
    before = table.copy(), logged.copy()
    build_curves(table, logged)
    pd.testing.assert_frame_equal(table, before[0])
    pd.testing.assert_frame_equal(logged, before[1])


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.floats()), max_size=30))
def test_points_are_sorted_and_unique_and_the_last_wins(rows: list[tuple[str, int, float]]) -> None:
    curves = build_curves(runs("a", "b"), points(*rows))
    wanted = {(run, step): loss for run, step, loss in rows if run != "c"}
    keys = list(zip(curves.points["run"], curves.points["step"], strict=True))
    assert keys == sorted(wanted)
    np.testing.assert_array_equal(curves.points["loss"], [wanted[key] for key in sorted(wanted)])
    dropped = sum(run != "c" for run, _, _ in rows) - len(wanted)
    assert sum(int(problem.what.split()[0]) for problem in curves.problems) == dropped


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.floats()), max_size=30))
def test_the_points_of_a_run_are_found_where_they_lie(rows: list[tuple[str, int, float]]) -> None:
    curves = build_curves(runs("a", "b", "c", "d"), points(*rows))
    some = curves.restrict(curves.runs["run"].isin(["b", "d"]))
    assert some.points is curves.points
    starts, ends = some.stretches()
    selected = curves.select(curves.runs["run"].isin(["b", "d"]))
    for name, start, end in zip(some.runs["run"], starts, ends, strict=True):
        expected = selected.points[selected.points["run"] == name]
        pd.testing.assert_frame_equal(
            curves.points[start:end][["step", "examples", "loss"]].reset_index(drop=True),
            expected[["step", "examples", "loss"]].reset_index(drop=True),
        )
    assert set(selected.points["run"].cat.categories) == set(selected.points["run"])


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.floats()), max_size=30),
    st.sets(st.sampled_from("abc")),
    st.permutations("abc"),
)
def test_points_run_by_run_make_the_same_table(
    rows: list[tuple[str, int, float]], counted: set[str], order: list[str]
) -> None:
    table = build_curves(runs("a", "b"), points(*rows)).points
    whole = build_curves(runs("a", "b", "c"), points(*rows)).points
    columns = PointColumns()
    for name in order:
        part = whole[whole["run"] == name]
        columns.add(name, part["step"].to_numpy(), part["loss"].to_numpy())
    columns.expect_examples()
    for name in counted:
        columns[name].examples[:] = columns[name].step * 3.0
    expected = table["examples"].where(~table["run"].isin(counted), table["step"] * 3.0)
    made = curves_of_runs(
        runs("a", "b"), columns, problems=(), project="", source="", loss_name="", batch_unit="examples",
        read_as={}, route="",
    )  # fmt: skip
    pd.testing.assert_frame_equal(made.points, table.assign(examples=expected))
