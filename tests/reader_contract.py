"""What a user may rely on wherever the runs lie: the same runs, written anywhere, are read back as the same curves.

`ReaderContract` runs unchanged on every place; a place only says how runs get there and how they are read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest

from surge_sweeps.curves import LossCurves
from surge_sweeps.errors import UnknownNameError
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, TRAIN_LOSS, RunRecord


class Place(Protocol):
    """Somewhere to put runs and to read them from."""

    def write(self, records: Sequence[RunRecord]) -> None:
        """Put finished runs there, beside those that are there."""
        ...

    def read(
        self, *, loss: str | None = None, lr: str | None = None, cache_dir: Path | None = None
    ) -> LossCurves:
        """Read them all."""
        ...


def run_of(
    lr: float,
    losses: Sequence[float],
    *,
    batch_size: int = 8,
    seed: int = 0,
    optimizer: str = "adamw",
    status: str = "finished",
    first_step: int = 1,
) -> RunRecord:
    """A run with one held-out loss a step, a train loss just above it, and the examples seen."""
    steps = range(first_step, first_step + len(losses))
    metrics = {
        EVAL_LOSS: list(zip(steps, losses, strict=True)),
        TRAIN_LOSS: [(step, loss + 0.25) for step, loss in zip(steps, losses, strict=True)],
        EXAMPLES: [(step, float(step * batch_size)) for step in steps],
    }
    config = {"lr": lr, "batch_size": batch_size, "seed": seed, "optimizer": optimizer}
    trial = f"lr{lr:g}-b{batch_size}-s{seed}-{optimizer}"
    return RunRecord(config, trial, status, metrics)  # type: ignore[arg-type]


def losses_of(curves: LossCurves) -> dict[tuple[float, int, int], list[float]]:
    """(learning rate, batch size, seed) -> losses in the order of steps."""
    runs = curves.runs.set_index("run")
    found = {}
    for run, points in curves.points.groupby("run"):
        row = runs.loc[run]
        found[(row["lr"], row["batch_size"], row["seed"])] = points["loss"].tolist()
    return found


class ReaderContract:
    """Inherit and give a fixture `place`."""

    def test_learning_rates_batch_sizes_seeds_and_losses_come_back_to_the_bit(self, place: Place) -> None:
        values = [2.0 / 3.0, 1e-300, 0.1 + 0.2]
        place.write([run_of(1e-5, values), run_of(0.3, values[::-1], batch_size=512, seed=7)])
        curves = place.read()
        assert losses_of(curves) == {(1e-5, 8, 0): values, (0.3, 512, 7): values[::-1]}
        assert curves.points["step"].tolist() == [1, 2, 3, 1, 2, 3]
        assert sorted(curves.points["examples"]) == [8.0, 16.0, 24.0, 512.0, 1024.0, 1536.0]
        assert curves.problems == ()

    @pytest.mark.parametrize("last", [math.nan, math.inf, -math.inf])
    def test_a_loss_that_is_not_finite_survives_and_the_run_has_diverged(
        self, place: Place, last: float
    ) -> None:
        place.write([run_of(0.1, [3.0, 2.0]), run_of(9.0, [3.0, 50.0, last], status="diverged")])
        curves = place.read()
        assert dict(zip(curves.runs["lr"], curves.runs["status"], strict=True)) == {
            0.1: "finished",
            9.0: "diverged",
        }
        assert str(losses_of(curves)[(9.0, 8, 0)]) == str([3.0, 50.0, last])

    def test_other_hyper_parameters_are_columns(self, place: Place) -> None:
        place.write([run_of(0.1, [3.0, 2.0]), run_of(0.1, [3.0, 1.0], optimizer="sgd")])
        assert sorted(place.read().runs["optimizer"]) == ["adamw", "sgd"]

    def test_another_metric_is_read_when_asked_for(self, place: Place) -> None:
        place.write([run_of(0.1, [3.0, 2.0])])
        curves = place.read(loss=TRAIN_LOSS)
        assert curves.loss_name == TRAIN_LOSS
        assert losses_of(curves) == {(0.1, 8, 0): [3.25, 2.25]}

    def test_a_name_that_is_not_there_is_an_error_that_lists_those_that_are(self, place: Place) -> None:
        place.write([run_of(0.1, [3.0, 2.0])])
        with pytest.raises(UnknownNameError, match="eval/loss"):
            place.read(loss="evil/loss")
        with pytest.raises(UnknownNameError, match="optimizer"):
            place.read(lr="learning_rat")

    def test_a_second_read_brings_what_is_new_and_nothing_twice(self, place: Place, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        place.write([run_of(0.1, [3.0, 2.0])])
        first = place.read(cache_dir=cache)
        again = place.read(cache_dir=cache)
        assert losses_of(first) == losses_of(again) == {(0.1, 8, 0): [3.0, 2.0]}
        place.write([run_of(0.2, [3.0, 1.0])])
        assert losses_of(place.read(cache_dir=cache)) == {(0.1, 8, 0): [3.0, 2.0], (0.2, 8, 0): [3.0, 1.0]}

    def test_reading_gives_the_same_twice(self, place: Place) -> None:
        place.write([run_of(0.1, [3.0, 2.0], seed=seed) for seed in range(3)])
        first, second = place.read(), place.read()
        assert first.runs.equals(second.runs)
        assert first.points.equals(second.points)
