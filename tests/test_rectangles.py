"""Any set of grid cells is covered exactly, once, and by few rectangles; the small sweeps keep the trials' ids."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.rectangles import follow_up, rectangles
from surge_sweeps.sweep import SCRIPT_COMMAND, Sweep

SWEEP = Sweep(
    lr=(0.001, 0.003, 0.01, 0.03),
    batch_size=(8, 16, 32),
    seed=(0, 1, 2),
    constants={"optimizer": "adamw", "max_steps": 100},
    command=SCRIPT_COMMAND,
    program="train.py",
    name="study",
    loss="val/loss",
    extra={"description": "kept"},
)
TRIALS = SWEEP.trials()


@given(st.sets(st.sampled_from(range(len(TRIALS)))))
def test_any_set_of_cells_is_covered_exactly_and_once(chosen: set[int]) -> None:
    trials = [TRIALS[index] for index in chosen]
    cover = rectangles(trials)
    cells = [cell for box in cover for cell in product(box.lr, box.batch_size, box.seed)]
    wanted = {(trial.lr, trial.batch_size, trial.seed) for trial in trials}
    assert Counter(cells) == Counter(wanted)
    assert len(cover) <= max(1, len(trials))


@given(st.sets(st.sampled_from(range(len(TRIALS)))))
def test_follow_up_sweeps_hold_the_missing_trials_under_their_own_ids(chosen: set[int]) -> None:
    missing = [TRIALS[index] for index in chosen]
    small = follow_up(SWEEP, missing)
    ids = [trial.trial_id for sweep in small for trial in sweep.trials()]
    assert Counter(ids) == Counter(trial.trial_id for trial in missing)
    assert len({sweep.name for sweep in small}) == len(small)
    for sweep in small:
        assert (sweep.loss, sweep.program, sweep.extra) == (SWEEP.loss, SWEEP.program, SWEEP.extra)
        assert Sweep.from_yaml(sweep.to_yaml()) == sweep


@pytest.mark.parametrize(
    ("missing", "most"),
    [
        (lambda trial: True, 1),
        (lambda trial: trial.seed == 1, 1),
        (lambda trial: trial.batch_size == 8 and trial.lr < 0.01, 1),
        (lambda trial: trial.batch_size == 8 or trial.lr == 0.01, 2),
        (lambda trial: not (trial.batch_size == 16 and trial.lr == 0.003 and trial.seed == 1), 3),
        (lambda trial: (trial.batch_size == 8) == (trial.lr < 0.01), 2),
    ],
)
def test_what_few_rectangles_cover_takes_few(missing: object, most: int) -> None:
    assert callable(missing)
    assert len(rectangles([trial for trial in TRIALS if missing(trial)])) <= most


def test_trials_of_another_sweep_are_left_out() -> None:
    other = Sweep(lr=(0.5,), batch_size=(8,), seed=(0,))
    assert follow_up(SWEEP, other.trials()) == []
