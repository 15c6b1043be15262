"""The line of a result that is read first: what to do, or the best that is known."""

from __future__ import annotations

from surge_sweeps.fitting.result import ProblemRecord, SurgeFit
from surge_sweeps.report.headline import LIMIT, headline_of
from surge_sweeps.report.page import report_info

from .conftest import Case

REFUSAL = "no schedule: it takes losses to reach, and the runs are those of further steps. Run more."


def line(case: Case, **changes: object) -> str:
    """The headline of the first group alone, changed."""
    group = case.fit.groups[0].model_copy(update=changes)
    return headline_of(report_info(_with(case, [group]), case.cells))


def _with(case: Case, groups: list[object], **changes: object) -> SurgeFit:
    return case.fit.model_copy(update={"groups": groups, **changes})


def test_the_recommendation_stands_first(demo: Case) -> None:
    assert line(demo).startswith("Train with batch size")


def test_without_a_schedule_the_optima_and_the_verdict_stand_first(demo: Case) -> None:
    group = demo.fit.groups[0].model_copy(update={"schedule": None})
    problem = ProblemRecord(run=None, what=f"{group.label()}: {REFUSAL}")
    info = report_info(_with(demo, [group], problems=[problem]), demo.cells)
    found = headline_of(info)
    assert "No schedule: it takes losses" in info.groups[0].recommendation
    assert found.startswith("Optimal LR ")
    assert " at batch size " in found
    assert f"Verdict: {info.groups[0].title}." in found
    assert found.endswith("No schedule yet (the report says why).")
    assert "\n" not in found


def test_an_open_verdict_is_said(demo: Case) -> None:
    targets = [one.model_copy(update={"verdict": "inconclusive"}) for one in demo.fit.groups[0].targets]
    found = line(demo, schedule=None, targets=targets)
    assert "The data cannot tell how it depends on the batch size." in found
    assert found.startswith("Optimal LR ")


def test_bounds_are_no_optimal_learning_rates(demo: Case) -> None:
    targets = [
        one.model_copy(
            update={
                "optimal_lr": [point.model_copy(update={"status": "edge_high"}) for point in one.optimal_lr]
            }
        )
        for one in demo.fit.groups[0].targets
    ]
    assert "Optimal LR " not in line(demo, schedule=None, targets=targets)


def test_of_several_groups_the_one_with_a_recommendation_speaks(demo: Case) -> None:
    first = demo.fit.groups[0]
    other = first.model_copy(update={"group": {"optimizer": "x" * 60}, "schedule": None})
    found = headline_of(report_info(_with(demo, [other, first]), demo.cells))
    assert found.startswith(f"{first.label()}: Train with")
    assert found.endswith("(1 more group in the report.)")
    undecided = [one.model_copy(update={"verdict": "inconclusive"}) for one in first.targets]
    best_of_runs = first.model_copy(update={"group": {"optimizer": "y"}, "targets": undecided})
    assert headline_of(report_info(_with(demo, [best_of_runs, first]), demo.cells)).startswith(first.label())
    open_ones = [other, first.model_copy(update={"schedule": None})]
    found = headline_of(report_info(_with(demo, open_ones), demo.cells))
    assert "Optimal LR " in found
    assert len(found) <= LIMIT + 80


def test_a_result_of_nothing_says_so(demo: Case) -> None:
    assert headline_of(report_info(_with(demo, []), demo.cells)).startswith("No result. ")


def test_a_long_recommendation_keeps_whole_sentences(demo: Case) -> None:
    schedule = demo.fit.groups[0].schedule
    assert schedule is not None
    many = [
        phase.model_copy(update={"from_examples": 10**9 * (place + 1), "lr": 1.2345e-5 * (place + 1)})
        for place, phase in enumerate([schedule.phases[0]] * 4)
    ]
    found = line(demo, schedule=schedule.model_copy(update={"phases": many, "law": "measured"}))
    assert len(found) <= LIMIT + 25
    assert found.endswith((".", "More in the report."))
