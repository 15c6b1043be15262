"""What the report shows, compared as values: points, bounds, curves, advice and the sentences of the first screen."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pandas as pd
import pytest

from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.fitting.result import (
    GroupFit,
    LawFit,
    OptimalLR,
    PhaseRecord,
    ScheduleRecord,
    Slope,
)
from surge_sweeps.report.advice import next_runs
from surge_sweeps.report.build_infos import (
    laws_info,
    optima_info,
    optimum_points,
    scale_info,
    schedule_info,
    tradeoff_info,
)
from surge_sweeps.report.cards import Card, key_numbers
from surge_sweeps.report.checks import tradeoff_remarks, tradeoff_table
from surge_sweeps.report.drift_words import slope_text
from surge_sweeps.report.families import family_of
from surge_sweeps.report.infos import (
    LawsInfo,
    Missing,
    OptimaInfo,
    ScaleInfo,
    ScheduleInfo,
    SurfaceInfo,
    TradeoffInfo,
)
from surge_sweeps.report.page import report_info
from surge_sweeps.report.page_tables import laws_table
from surge_sweeps.report.sentences import headline, recommendation, why_no_schedule
from surge_sweeps.report.surfaces import surface_info, tried_edge
from surge_sweeps.report.words import leading_law, optimum_text
from surge_sweeps.schedule import cautious_lr
from surge_sweeps.theory import LAWS

from .conftest import Case, bare_target, interval


def optimum(
    batch_size: int, lr: float | None, status: str, low: float | None = None, high: float | None = None
) -> OptimalLR:
    return OptimalLR.model_validate(
        {
            "batch_size": batch_size,
            "lr": lr,
            "low": low,
            "high": high,
            "status": status,
            "runs": 3,
            "flat_band": (None, None),
        }
    )


def test_an_edge_is_a_bound_and_not_a_value() -> None:
    optima = [
        optimum(16, 0.3, "edge_high", 0.2),
        optimum(8, 1e-4, "edge_low", None, 2e-4),
        optimum(4, 0.01, "ok", 0.008, 0.013),
    ]
    points = optimum_points(bare_target(optimal_lr=optima))
    assert [(point.x, point.y, point.kind) for point in points] == [
        (4.0, 0.01, "value"),
        (8.0, 1e-4, "below"),
        (16.0, 0.3, "above"),
    ]
    assert points[2].high is None


def test_batch_sizes_without_an_optimum_are_not_drawn() -> None:
    assert optimum_points(bare_target()) == ()


def test_the_drawn_law_passes_through_what_theory_says(demo: Case) -> None:
    target = demo.fit.groups[0].targets[0]
    info = laws_info(0.0, target, "examples")
    assert isinstance(info, LawsInfo)
    surge = next(curve for curve in info.curves if curve.name == "surge")
    parameters = next(law.parameters for law in target.laws if law.name == "surge")
    assert surge.selected
    assert surge.y[0] == pytest.approx(float(LAWS["surge"].evaluate(4.0, **parameters)), rel=1e-3)
    assert max(surge.y) == pytest.approx(parameters["eps_max"], rel=1e-2)
    assert info.peak == (target.b_peak.low, target.b_peak.high)


def test_an_inconclusive_target_selects_no_law(demo: Case) -> None:
    target = demo.fit.groups[0].targets[3]
    info = laws_info(0.0, target, "examples")
    assert target.verdict == "inconclusive"
    assert isinstance(info, LawsInfo)
    assert not any(curve.selected for curve in info.curves)


def test_laws_without_weight_are_listed_but_not_drawn(demo: Case) -> None:
    target = demo.fit.groups[0].targets[0]
    info = laws_info(0.0, target, "examples")
    assert isinstance(info, LawsInfo)
    assert {curve.name for curve in info.curves} == {"surge", "surge_plateau"}
    table = report_info(*demo).groups[0].families[0].laws_table
    assert {row[1] for row in table.rows} >= {"Constant", "Square root", "Surge ←"}


def test_a_plateau_law_without_a_peak_never_stands_for_a_surge(demo: Case) -> None:
    target = demo.fit.groups[0].targets[0]
    flat = LawFit(
        name="surge_plateau", parameters={"a": 0.1, "b_s": 50.0, "kappa": 0.4}, aicc=0.0, weight=0.9
    )
    surge = LawFit(name="surge", parameters={"eps_max": 0.1, "b_noise": 30.0}, aicc=1.0, weight=0.1)
    for verdict, law in (("surge", surge), ("saturation", flat)):
        assert leading_law(target.model_copy(update={"laws": [flat, surge], "verdict": verdict})) == law


def test_an_unknown_law_is_refused_with_the_valid_names(demo: Case) -> None:
    law = LawFit(name="cubic", parameters={}, aicc=0.0, weight=1.0)
    target = demo.fit.groups[0].targets[0].model_copy(update={"laws": [law], "verdict": "inconclusive"})
    with pytest.raises(UnknownNameError, match="sqrt"):
        laws_info(0.0, target, "examples")


def test_families_keep_their_losses_in_the_order_of_training(demo: Case) -> None:
    group = report_info(*demo).groups[0]
    assert [len(family.laws) for family in group.families] == [4, 3]
    assert [label for label, _ in group.families[0].laws] == ["loss 1.8", "loss 1.2", "loss 0.6", "loss 0.3"]
    assert isinstance(group.families[0].optima, OptimaInfo)
    assert [series.shade for series in group.families[0].optima.series] == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_bounds_of_b_peak_stay_bounds(demo: Case) -> None:
    group = report_info(*demo).groups[0]
    peak = group.scales[0].info
    assert isinstance(peak, ScaleInfo)
    gain = peak.series[1].points
    assert [(point.x, point.kind) for point in gain] == [(1.84, "value"), (0.73, "value"), (0.16, "above")]
    assert gain[2].y == 210
    assert peak.measured == (4.0, 512.0)


def test_unidentified_quantities_are_never_drawn() -> None:
    target = bare_target()
    info = scale_info("B_peak", [(family_of(target), target, target.b_peak)], [8, 16], "examples")
    assert isinstance(info, Missing)
    assert "does not fix" in info.why


def test_the_tradeoff_curve_is_the_fitted_hyperbola(demo: Case) -> None:
    group = report_info(*demo).groups[0]
    assert isinstance(group.tradeoff, TradeoffInfo)
    series = group.tradeoff.series[0]
    fit = demo.fit.groups[0].targets[0].tradeoff
    assert fit is not None
    assert fit.s_min is not None
    assert fit.e_min is not None
    for examples, steps in series.curve:
        assert (steps / fit.s_min - 1) * (examples / fit.e_min - 1) == pytest.approx(1, rel=0.02)
    assert series.corner == pytest.approx((2 * fit.e_min, 2 * fit.s_min), rel=1e-3)
    assert [batch_size for _, _, batch_size in series.points] == [4, 8, 16, 32, 64, 128, 256, 512]


def test_a_tradeoff_that_is_not_identified_shows_its_points_and_what_it_takes(demo: Case) -> None:
    target = demo.fit.groups[0].targets[0]
    assert target.tradeoff is not None
    open_ends = interval(None, None, None, "not_identified", "x")
    vague = target.model_copy(
        update={"tradeoff": target.tradeoff.model_copy(update={"b_crit": open_ends, "paper_b_crit": 34.0})}
    )
    none = target.model_copy(update={"tradeoff": None, "optimal_lr": target.optimal_lr[:2]})
    info = tradeoff_info([(0.5, vague)], "examples")
    assert isinstance(info, TradeoffInfo)
    assert (len(info.series[0].points), info.series[0].curve, info.series[0].corner) == (8, (), None)
    assert tradeoff_table([vague, none], "examples") is None
    unidentified, few = tradeoff_remarks([vague, none])
    assert "the steps at 8 batch sizes, from 4 to 512, leave B_crit open at both ends" in unidentified
    assert "are known at 2 batch sizes, and it takes 3 or more" in few


def test_a_b_crit_that_is_only_a_bound_gets_no_corner(demo: Case) -> None:
    tradeoff = tradeoff_info([(1.0, demo.fit.groups[0].targets[3])], "examples")
    assert isinstance(tradeoff, TradeoffInfo)
    assert tradeoff.series[0].corner is None


def test_surface_scores_compare_within_a_batch_size(demo: Case) -> None:
    surface = report_info(*demo).groups[0].families[0].surfaces[0][1]
    assert isinstance(surface, SurfaceInfo)
    for batch_size in (4, 64, 512):
        scores = [
            cell.score for cell in surface.cells if cell.batch_size == batch_size and cell.score is not None
        ]
        assert max(scores) == 1
        assert min(scores) > 0
    empty = [cell for cell in surface.cells if cell.response is None]
    assert all(cell.score is None and "none got there" in cell.text for cell in empty)


def test_a_rising_loss_scores_zero_and_never_below() -> None:
    cells = pd.DataFrame(
        [(0, 0, 8, 0.1, 0.5, 4, 0), (0, 0, 8, 0.2, -0.3, 4, 0), (0, 0, 16, 0.1, -0.1, 4, 0)],
        columns=["group", "target", "batch_size", "lr", "response", "runs", "censored"],
    )
    surface = surface_info(
        bare_target(protocol="gain", horizon_steps=10, start="checkpoint"), cells, "examples"
    )
    assert isinstance(surface, SurfaceInfo)
    assert [abs(cell.score or 0.0) for cell in surface.cells] == [1.0, 0.0, 0.0]


def test_no_data_gives_a_reason_in_the_place_of_every_figure(bare: Case) -> None:
    """Against the loss nothing could be drawn for a single target, so there no figure is missed."""
    group = report_info(*bare).groups[0]
    family = group.families[0]
    blocks = [
        family.optima,
        family.laws[0][1],
        family.surfaces[0][1],
        group.tradeoff,
        group.schedule,
    ]
    assert group.scales == ()
    assert all(isinstance(block, Missing) and block.why.endswith(".") for block in blocks)


def test_cells_without_a_column_are_refused(demo: Case) -> None:
    with pytest.raises(SurgeError, match="'response'"):
        report_info(demo.fit, demo.cells.drop(columns="response"))


def test_infos_are_plain_json(demo: Case) -> None:
    text = json.dumps(report_info(*demo).to_dict(), allow_nan=False)
    assert json.loads(text)["project"] == "digits-demo"


def test_headline_says_where_the_data_cannot_tell(demo: Case) -> None:
    title, sentence, decided = headline(demo.fit.groups[0])
    assert (title, decided) == ("Surge at 5 of 7 losses", True)
    assert sentence.startswith("At 5 of the 7 losses looked at, the optimal learning rate rises")
    assert sentence.endswith("at the others the data cannot tell.")


def test_headline_of_open_verdicts_claims_no_law(demo: Case, bare: Case) -> None:
    group = demo.fit.groups[1]
    undecided = group.model_copy(
        update={
            "targets": [target.model_copy(update={"verdict": "inconclusive"}) for target in group.targets]
        }
    )
    title, sentence, decided = headline(undecided)
    assert (title, decided) == ("The data cannot tell", False)
    assert "too weak" in sentence
    assert "no optimal learning rate was found" in headline(bare.fit.groups[0])[1]


def test_verdicts_that_differ_are_all_named(demo: Case) -> None:
    group = demo.fit.groups[0]
    targets = [group.targets[0], group.targets[1].model_copy(update={"verdict": "sqrt"})]
    title, sentence, _ = headline(group.model_copy(update={"targets": targets}))
    assert title == "Surge at 1 / Square-root law at 1 of 2 losses"
    assert sentence == "Of the 2 losses looked at, the law is surge at 1 and square-root law at 1."


def schedule(*phases: tuple[float, int, float, str], law: str = "sqrt") -> ScheduleRecord:
    records = [
        PhaseRecord.model_validate(
            {
                "from_examples": start,
                "loss": None,
                "batch_size": size,
                "lr": lr,
                "lr_low": None,
                "lr_high": None,
                "status": status,
            }
        )
        for start, size, lr, status in phases
    ]
    return ScheduleRecord(batch_unit="examples", law=law, phases=records, assumptions=[])


def test_optima_without_intervals_promise_none_and_ask_for_runs_that_give_them(demo: Case) -> None:
    open_ends = {"low": None, "high": None}
    group = demo.fit.groups[0]
    targets = [
        one.model_copy(
            update={
                "optimal_lr": [point.model_copy(update=open_ends) for point in one.optimal_lr],
                "verdict": "inconclusive",
                "laws": [],
            }
        )
        for one in group.targets
    ]
    vague = group.model_copy(update={"targets": targets})
    info = report_info(demo.fit.model_copy(update={"groups": [vague]}), demo.cells).groups[0]
    assert info.families[0].table_heading == "Optimal learning rates"
    assert info.sentence.endswith(
        "too few batch sizes have an optimum with an interval for laws to be fitted."
    )
    assert info.next_runs[0].startswith("More learning rates near the best, or more seeds, at ")
    whole = report_info(*demo).groups[0]
    assert whole.families[0].table_heading == "Optimal learning rates, 95% intervals in brackets"
    assert not any("no interval" in text for text in whole.next_runs)


def test_recommendation_of_a_carried_on_phase_names_it_once() -> None:
    text = recommendation(
        schedule((0, 32, 0.004, "measured"), (9e4, 32, 0.004, "extrapolated"), law="measured")
    )
    assert text == (
        "Train with batch size 32 and LR 0.004 throughout. Measured up to 90k examples; what follows is extrapolated."
        " No law is established, so these learning rates rest on the measured optima alone."
    )


def test_without_a_verdict_the_schedule_is_no_more_than_the_best_that_was_run(demo: Case) -> None:
    group = demo.fit.groups[0]
    best = group.targets[0].optimal_lr[2]
    assert best.lr is not None
    open_above = best.model_copy(update={"low": best.lr / 2, "high": None})
    targets = [
        group.targets[0].model_copy(
            update={"verdict": "inconclusive", "laws": [], "optimal_lr": [open_above]}
        )
    ]
    low = cautious_lr(best.lr, best.lr / 2)
    phase = schedule((0, 16, float(f"{low:.4g}"), "measured"), law="measured").phases[0]
    phase = phase.model_copy(update={"lr_low": float(f"{best.lr / 2:.4g}")})
    record = ScheduleRecord(batch_unit="examples", law="measured", phases=[phase], assumptions=[])
    found = group.model_copy(update={"targets": targets, "schedule": record})
    info = report_info(demo.fit.model_copy(update={"groups": [found]}), demo.cells).groups[0]
    text = info.recommendation
    assert text.startswith(
        "No law is established, so this is only the best of what was run: train with batch size 16"
    )
    assert f"on the low side of the measured optimum {optimum_text(open_above)}" in text
    assert text.endswith(
        "That interval is open above: these runs do not say how much larger the optimum may be."
    )
    assert text.count("No law is established") == 1
    assert not info.decided


def test_a_long_schedule_is_summed_up() -> None:
    phases = [(1000.0 * step, 2**step, 0.001 * (step + 1), "measured") for step in range(7)]
    text = recommendation(schedule(*phases))
    assert text == (
        "Train with batch size 1 and LR 0.001 up to 1000 examples, then go in 6 steps to batch size 64 and LR 0.007"
        " from 6000 examples on."
    )


def test_phases_of_the_schedule_end_where_the_next_begins() -> None:
    info = schedule_info(schedule((0, 16, 0.01, "measured"), (100, 32, 0.02, "extrapolated")), "none")
    assert isinstance(info, ScheduleInfo)
    assert [(phase.start, phase.end, phase.measured) for phase in info.phases] == [
        (0, 100, True),
        (100, 125, False),
    ]


def test_a_constant_schedule_draws_nothing() -> None:
    info = schedule_info(schedule((0, 16, 0.01, "measured"), (100, 16, 0.01, "extrapolated")), "none")
    assert isinstance(info, Missing)


def test_no_schedule_gives_the_reason_that_the_fit_recorded(demo: Case) -> None:
    group = demo.fit.groups[1]
    assert why_no_schedule(group, False, []).startswith("No schedule: the law")
    problem = demo.fit.problems[0].model_copy(
        update={"what": "optimizer adamw: no schedule: B_crit is unknown."}
    )
    assert why_no_schedule(group, True, [problem]) == "No schedule: B_crit is unknown."


def test_next_runs_name_the_edges_and_the_missing_batch_sizes(demo: Case, bare: Case) -> None:
    runs = " ".join(next_runs(demo.fit.groups[1]))
    assert "Learning rates above 0.3 at batch size 512" in runs
    assert "Batch sizes above 512: B_peak" in runs
    low = interval(None, 11.0, None, "lower_bound", "x")
    targets = [one.model_copy(update={"b_peak": low}) for one in demo.fit.groups[1].targets]
    inside = next_runs(demo.fit.groups[1].model_copy(update={"targets": targets}))
    assert not any("B_peak" in text for text in inside)
    assert "More seeds" in runs
    few = " ".join(next_runs(bare.fit.groups[0]))
    assert "every run there diverged" in few
    assert "2 batch sizes were run, and B_crit takes 3, fitting laws 4, telling laws apart 5" in few


def test_inconclusive_without_a_flag_still_names_runs(demo: Case) -> None:
    target = demo.fit.groups[0].targets[0]
    plain = target.model_copy(
        update={"verdict": "inconclusive", "b_peak": interval(None, None, None, "not_identified", "x")}
    )
    runs = next_runs(demo.fit.groups[0].model_copy(update={"targets": [plain]}))
    assert runs == ["Batch sizes and learning rates in between, and more seeds near the optima."]


def test_a_slope_whose_interval_holds_zero_is_no_movement_claim(demo: Case) -> None:
    drift = demo.fit.groups[0].drift
    assert slope_text(drift.b_crit, "B_crit").startswith("The data cannot tell whether B_crit moves")
    assert slope_text(drift.b_peak, "B_peak").startswith("B_peak grows as the loss falls")


@pytest.mark.parametrize(
    ("p_value", "text"), [(0.148, "no movement: p = 0.15)"), (0.0009995, "no movement: p < 0.001)")]
)
def test_p_values_keep_two_digits_down_to_the_floor_of_the_draws(p_value: float, text: str) -> None:
    slope = Slope(exponent=1.2, low=0.4, high=2.0, p_value=p_value, status="identified")
    assert text in slope_text(slope, "B_peak")


@pytest.mark.parametrize(
    ("alphas", "text"),
    [
        (
            (-0.16, -0.14),
            "The optimal learning rate falls with the batch size as a power, exponent -0.16 to -0.14.",
        ),
        ((0.3, 0.3), "The optimal learning rate rises with the batch size as a power, exponent 0.30."),
        ((-0.2, 0.3), "rising at some losses and falling at others."),
    ],
)
def test_the_headline_of_a_power_follows_its_sign(demo: Case, alphas: tuple[float, float], text: str) -> None:
    group = demo.fit.groups[0]
    targets = [
        target.model_copy(
            update={
                "verdict": "power",
                "laws": [LawFit(name="power", parameters={"a": 0.1, "alpha": alpha}, aicc=1.0, weight=1.0)],
            }
        )
        for target, alpha in zip(group.targets, alphas, strict=False)
    ]
    assert headline(group.model_copy(update={"targets": targets}))[1].endswith(text)
    mixed = [*targets[:1], group.targets[0]]
    pace = "rising" if alphas[0] > 0 else "falling"
    assert f"power law ({pace}) at 1" in headline(group.model_copy(update={"targets": mixed}))[1]


def card_of(group: GroupFit, name: str) -> Card:
    return next(card for card in key_numbers(group) if card.title == name)


def test_the_card_of_b_peak_says_where_the_losses_disagree(demo: Case) -> None:
    group = demo.fit.groups[0]
    bounds = [
        interval(None, 512.0, None, "lower_bound", "x"),
        interval(None, None, 31.0, "upper_bound", "x"),
        interval(None, 100.0, None, "lower_bound", "x"),
    ]
    targets = [one.model_copy(update={"b_peak": b}) for one, b in zip(group.targets, bounds, strict=False)]
    card = card_of(group.model_copy(update={"targets": targets}), "B_peak")
    assert card.value == "no single value"
    assert card.notes[:2] == ("above 512 at loss 1.8", "below 31 at loss 1.2")


def test_a_peak_that_is_not_established_is_no_value_and_no_bound(demo: Case) -> None:
    group = demo.fit.groups[0]
    closed = interval(None, 11.2, 25.0, "not_identified", "x")
    targets = [group.targets[0].model_copy(update={"b_peak": closed, "verdict": "inconclusive"})]
    one = group.model_copy(update={"targets": targets})
    card = card_of(one, "B_peak")
    assert (card.value, card.notes[0]) == ("not established", "not established; if any, 11 to 25 at loss 1.8")
    info = report_info(demo.fit.model_copy(update={"groups": [one]}), demo.cells)
    assert info.groups[0].scales == ()
    assert not any("B_peak" in text for text in info.groups[0].next_runs)


def test_the_card_of_b_crit_says_where_the_hyperbola_fits_poorly(demo: Case) -> None:
    group = demo.fit.groups[0]
    assert "fits poorly" not in " ".join(card_of(group, "B_crit").notes)
    targets = []
    for target in group.targets:
        steep = interval(1.28, 1.1, 1.5, "identified", "q") if target.loss == 0.6 else None
        tradeoff = target.tradeoff and target.tradeoff.model_copy(update={"exponent": steep})
        targets.append(target.model_copy(update={"tradeoff": tradeoff}))
    notes = card_of(group.model_copy(update={"targets": targets}), "B_crit").notes
    assert "at loss 0.6 (" in notes[0]
    assert [note.endswith("(the hyperbola fits poorly)") for note in notes] == [True, False, False]


def test_parameters_at_the_limit_of_the_search_are_no_estimates(demo: Case) -> None:
    group = demo.fit.groups[0]
    stuck = [
        LawFit(name="surge_plateau", parameters={"a": 1.0, "b_s": 4e6, "kappa": 1e5}, aicc=None, weight=None),
        LawFit(name="sgd_saturation", parameters={"eps_max": 1.0, "b_noise": 0.004}, aicc=None, weight=None),
        LawFit(name="surge", parameters={"eps_max": 1.0, "b_noise": 40.0}, aicc=None, weight=None),
    ]
    rows = laws_table([group.targets[0].model_copy(update={"laws": stuck})]).rows
    marked = {row[1].removesuffix(" ←"): row[2].count("(at the limit of the search)") for row in rows}
    assert marked == {"Surge with plateau": 1, "Saturation, SGD": 1, "Surge": 0}
    assert "kappa = 100000 (at the limit of the search)" in rows[0][2]


def test_problems_of_one_kind_are_counted_together(demo: Case) -> None:
    info = report_info(*demo)
    assert [(problem.count, len(problem.runs)) for problem in info.problems] == [(1, 0), (32, 32), (1, 1)]
    assert info.problem_count == 34


def test_optima_info_of_nothing_says_why() -> None:
    target = bare_target()
    assert isinstance(optima_info(family_of(target), [(0.5, target)], "examples"), Missing)


def test_infos_are_frozen(demo: Case) -> None:
    info = report_info(*demo)
    assert replace(info, project="x").project == "x"
    with pytest.raises(AttributeError):
        info.project = "y"  # type: ignore[misc]
    assert not any(
        math.isnan(cell.response)
        for _, surface in info.groups[0].families[0].surfaces
        if isinstance(surface, SurfaceInfo)
        for cell in surface.cells
        if cell.response is not None
    )


def test_the_end_of_the_grid_is_no_stability_edge(demo: Case) -> None:
    cells = demo.cells[(demo.cells["group"] == 0) & (demo.cells["target"] == 0)]
    target = demo.fit.groups[0].targets[0]
    assert len(tried_edge(target, cells)) == 8
    edge = target.stability_edge[0].lr
    tried = cells[(cells["lr"] <= edge * 1.001) | (cells["batch_size"] == 4)]
    assert [size for size, _ in tried_edge(target, tried)] == [4.0]


def test_a_movement_known_from_one_side_is_a_movement() -> None:
    slope = Slope(low=0.4, p_value=0.004, status="lower_bound")
    assert slope_text(slope, "B_crit").startswith("B_crit grows as the loss falls, faster than loss^-0.4")
    falling = slope.model_copy(update={"low": -0.4})
    assert slope_text(falling, "B_crit").startswith("The data cannot tell")
