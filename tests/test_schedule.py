"""Schedules: what the trade-off allows and nothing more; a constant batch size is a possible answer."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surge_sweeps.errors import NotEnoughDataError, SurgeError, UnknownNameError
from surge_sweeps.fitting.result import (
    DriftFit,
    GroupFit,
    Interval,
    LawFit,
    OptimalLR,
    Slope,
    SurgeFit,
    TargetFit,
    TradeoffFit,
)
from surge_sweeps.report.page_tables import schedule_table
from surge_sweeps.report.sentences import recommendation
from surge_sweeps.schedule import Schedule, attach_schedules, lowered_optimum, recommend

BATCHES = (4, 8, 16, 32, 64, 128)


def target(
    loss: float,
    b_crit: float,
    s_min: float = 50.0,
    verdict: str = "sqrt",
    scale: float = 0.001,
    protocol: str = "reach",
) -> TargetFit:
    """A reach target on an exact square-root law and an exact hyperbola of steps against batch size."""
    nowhere = Interval(definition="")
    return TargetFit.model_validate(
        {
            "protocol": protocol,
            "loss": loss,
            "horizon_steps": None,
            "start": "scratch",
            "optimal_lr": [
                OptimalLR(
                    batch_size=batch,
                    lr=scale * math.sqrt(batch),
                    low=scale * math.sqrt(batch) / 1.1,
                    high=scale * math.sqrt(batch) * 1.1,
                    status="ok",
                    steps=s_min * (1 + b_crit / batch),
                    runs=40,
                    flat_band=(None, None),
                )
                for batch in BATCHES
            ],
            "stability_edge": [],
            "tradeoff": TradeoffFit(
                s_min=s_min,
                s_min_low=None,
                s_min_high=None,
                e_min=s_min * b_crit,
                e_min_low=None,
                e_min_high=None,
                b_crit=Interval(
                    estimate=b_crit, low=b_crit / 1.2, high=None, status="identified", definition=""
                ),
            ),
            "laws": [LawFit(name="sqrt", parameters={"a": scale}, aicc=0.0, weight=0.95)],
            "verdict": verdict,
            "reasons": [],
            "b_peak": nowhere,
            "b_noise": nowhere,
            "minimum_detectable_kappa": None,
        }
    )


def fit_of(*targets: TargetFit, groups: int = 1) -> SurgeFit:
    drift = DriftFit(b_peak=Slope(), b_crit=Slope())
    return SurgeFit(
        project="p",
        source="s",
        batch_unit="examples",
        problems=[],
        groups=[
            GroupFit(group={"optimizer": f"o{index}"}, targets=list(targets), drift=drift)
            for index in range(groups)
        ],
    )


def test_batch_size_is_the_largest_within_the_overhead_of_the_fewest_examples() -> None:
    schedule = recommend(fit_of(target(2.0, 50), target(1.0, 400), target(0.5, 900)))
    # E = S_min (B_crit + B); the fewest are at batch 4: (B_crit + B) <= 1.2 (B_crit + 4).
    assert [phase.batch_size for phase in schedule.phases if phase.status == "measured"] == [8, 64, 128]
    starts = [phase.from_examples for phase in schedule.phases]
    assert starts[1] == pytest.approx(50 * (50 + 8))
    # From there to loss 1.0 at batch 64: what it takes from scratch, less what loss 2.0 took at batch 64.
    assert starts[2] - starts[1] == pytest.approx(50 * (400 + 64) - 50 * (50 + 64))


def test_a_batch_size_that_a_larger_one_beats_is_never_recommended() -> None:
    base = target(1.0, 400)
    slow = [
        point.model_copy(update={"steps": (point.steps or 0.0) * (5 if point.batch_size == 4 else 1)})
        for point in base.optimal_lr
    ]
    schedule = recommend(fit_of(base.model_copy(update={"optimal_lr": slow})), example_overhead=0.001)
    assert schedule.phases[0].batch_size == 8


def test_one_batch_size_for_the_whole_run_is_a_possible_answer() -> None:
    schedule = recommend(fit_of(target(2.0, 50), target(1.0, 52)))
    assert {phase.batch_size for phase in schedule.phases} == {8}


def test_an_optimum_whose_interval_is_open_below_is_not_recommended() -> None:
    base = target(1.0, 50)
    points = [
        point.model_copy(update={"low": None} if point.batch_size == 8 else {}) for point in base.optimal_lr
    ]
    assert recommend(fit_of(base.model_copy(update={"optimal_lr": points}))).phases[0].batch_size == 4


def test_the_learning_rate_follows_the_law_at_the_batch_size_in_force() -> None:
    schedule = recommend(fit_of(target(2.0, 100), target(1.0, 400)))
    assert schedule.law == "sqrt"
    for phase in schedule.phases:
        assert phase.lr == pytest.approx(0.001 * math.sqrt(phase.batch_size))


def test_an_open_verdict_recommends_below_the_measured_optimum() -> None:
    schedule = recommend(fit_of(target(1.0, 100, verdict="inconclusive")))
    phase = schedule.phases[0]
    measured = 0.001 * math.sqrt(phase.batch_size)
    assert schedule.law == "measured"
    assert 0.9 * measured < phase.lr < measured
    assert any("30% quantile" in line for line in schedule.assumptions)


def test_a_learning_rate_below_the_optimum_is_said_to_be_that_beside_the_optimum_and_its_interval() -> None:
    found = target(1.0, 100, verdict="inconclusive")
    record = recommend(fit_of(found)).to_record()
    optimum = lowered_optimum(record.phases[0], [found])
    assert optimum is not None
    assert optimum.lr == pytest.approx(0.001 * math.sqrt(16))
    assert recommendation(record, [found]).endswith(
        "No law is established, so LR 0.0039 is on the low side of the measured optimum 0.004 (0.0036 to 0.0044), since"
        " too large a learning rate costs more than too small a one."
    )
    assert schedule_table(record, [found]).rows[0][3] == "0.0039, below the optimum 0.004 (0.0036 to 0.0044)"


def test_a_learning_rate_of_a_law_is_not_called_lowered() -> None:
    found = target(1.0, 100)
    record = recommend(fit_of(found)).to_record()
    assert lowered_optimum(record.phases[0], [found]) is None
    assert "low side" not in recommendation(record, [found])


def test_beyond_the_lowest_measured_loss_the_schedule_is_marked_extrapolated() -> None:
    schedule = recommend(fit_of(target(2.0, 100), target(1.0, 400)))
    assert [phase.status for phase in schedule.phases] == ["measured", "measured", "extrapolated"]
    last = schedule.phases[-1]
    assert (last.batch_size, last.lr) == (schedule.phases[-2].batch_size, schedule.phases[-2].lr)


def test_the_budget_leaves_out_what_starts_later() -> None:
    fit = fit_of(target(2.0, 50), target(1.0, 400))
    assert len(recommend(fit, budget_examples=100).phases) == 1


@given(
    st.lists(st.tuples(st.floats(1, 5000), st.floats(1, 500)), min_size=1, max_size=6),
    st.floats(0.01, 2.0),
)
def test_any_schedule_starts_at_zero_ascends_and_stays_on_measured_batch_sizes(
    values: list[tuple[float, float]], overhead: float
) -> None:
    targets = [target(3.0 / (index + 1), b_crit, s_min) for index, (b_crit, s_min) in enumerate(values)]
    schedule = recommend(fit_of(*targets), example_overhead=overhead)
    sizes = [phase.batch_size for phase in schedule.phases]
    assert schedule.phases[0].from_examples == 0
    assert sizes == sorted(sizes)
    assert set(sizes) <= set(BATCHES)
    assert Schedule.from_record(schedule.to_record()) == schedule


def test_no_reach_target_gives_no_schedule_but_says_what_to_run() -> None:
    fit = fit_of(target(1.0, 100, protocol="gain"))
    with pytest.raises(NotEnoughDataError, match="from scratch"):
        recommend(fit)
    attached = attach_schedules(fit)
    assert attached.groups[0].schedule is None
    assert "optimizer o0" in attached.problems[-1].what


@pytest.mark.parametrize(
    ("changes", "reason", "next_step"),
    [
        ({"low": None, "high": None}, "has an interval that is closed below", "More learning rates"),
        ({"status": "edge_high", "low": None, "high": None}, "lies at an edge", "beyond that edge"),
        ({"steps": None}, "no loss has the steps of any", "train longer"),
    ],
)
def test_why_there_is_no_schedule_is_true_for_the_case(
    changes: dict[str, object], reason: str, next_step: str
) -> None:
    found = target(1.0, 100)
    optima = [one.model_copy(update=changes) for one in found.optimal_lr]
    with pytest.raises(NotEnoughDataError, match=reason) as told:
        recommend(fit_of(found.model_copy(update={"optimal_lr": optima})))
    assert next_step in told.value.hint
    assert "from scratch" not in str(told.value)


def test_several_groups_need_a_name_and_a_wrong_one_lists_them() -> None:
    fit = fit_of(target(1.0, 100), groups=2)
    with pytest.raises(SurgeError, match="optimizer o0, optimizer o1"):
        recommend(fit)
    with pytest.raises(UnknownNameError, match="optimizer o1"):
        recommend(fit, group="optimizer o2")
    assert recommend(fit, group="optimizer o1").phases


def test_negative_examples_are_refused() -> None:
    schedule = recommend(fit_of(target(1.0, 100)))
    with pytest.raises(SurgeError, match="from 0"):
        schedule.lr(-1)


@pytest.mark.parametrize(
    "options",
    [
        {"budget_examples": math.nan},
        {"budget_examples": math.inf},
        {"budget_examples": -1.0},
        {"example_overhead": math.nan},
        {"example_overhead": math.inf},
    ],
)
def test_options_that_are_not_finite_and_positive_are_refused_even_without_groups(
    options: dict[str, float],
) -> None:
    for found in (fit_of(target(2.0, 32.0)), fit_of(groups=0)):
        with pytest.raises(SurgeError, match="not finite and positive"):
            attach_schedules(found, **options)
        with pytest.raises(SurgeError, match="not finite and positive"):
            recommend(found, **options)
