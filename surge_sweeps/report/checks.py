"""What the fit was checked against, in words: the trade-off's shape and definitions, and the claims of the theory.

Nothing here decides: a claim is called rejected where the fit says so, and its p-value is put into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from surge_sweeps.counting import counted
from surge_sweeps.fitting.batch_counts import FOR_TRADEOFF
from surge_sweeps.fitting.result import Interval, TargetFit, TheoryTest, TradeoffFit
from surge_sweeps.fitting.tradeoff.fit_tradeoff import STRADDLE
from surge_sweeps.report.drift_words import p_text
from surge_sweeps.report.families import family_of, has_rates, target_label
from surge_sweeps.report.numbers import batch_text, count_text, list_text, lr_text
from surge_sweeps.report.page_tables import Table
from surge_sweeps.report.sentences import sentence
from surge_sweeps.report.words import interval_text, range_text

_CLAIMS = {
    "mean_field": "Mean-field theory of the sign update, one B_crit behind learning rates and steps",
    "b_peak_is_b_noise": "B_peak = B_noise = B_crit (Li et al. 2024, arXiv 2405.14578, Theorem 3)",
}

#: Below these p-values a claim is put in these words.
_EVIDENCE = (
    (0.001, "very strong evidence against it"),
    (0.01, "strong evidence against it"),
    (0.05, "evidence against it"),
)


class Claim(NamedTuple):
    """A claim of the theory: its name, what was found at which targets, and the statement of every test."""

    name: str
    found: str
    statements: tuple[str, ...]


def claims(targets: Sequence[TargetFit]) -> tuple[Claim, ...]:
    """The theory tests of all targets with learning rates, one claim after the other."""
    tests: dict[str, list[tuple[str, TheoryTest]]] = {}
    for target in filter(has_rates, targets):
        label = "" if target.loss is None else target_label(target)
        for test in target.tests:
            tests.setdefault(test.name, []).append((label, test))
    return tuple(Claim(_CLAIMS[name], _found(rows), _statements(rows)) for name, rows in tests.items())


def _found(rows: list[tuple[str, TheoryTest]]) -> str:
    """What was found, targets that agree together: in words, with their p-values."""
    places: dict[str, list[tuple[str, TheoryTest]]] = {}
    for label, test in rows:
        places.setdefault(evidence(test), []).append((label, test))
    return sentence("; ".join(_shared(words, members) for words, members in places.items()))


def _shared(words: str, members: list[tuple[str, TheoryTest]]) -> str:
    labels = [label for label, _ in members if label]
    values = sorted(test.p_value for _, test in members if test.p_value is not None)
    ends = list(dict.fromkeys(p_text(value) for value in values[:1] + values[1:][-1:]))
    where = f" at {list_text(labels)}" if labels else ""
    return f"{words}{where}" + (f" ({' to '.join(ends)})" if ends else "")


def _statements(rows: list[tuple[str, TheoryTest]]) -> tuple[str, ...]:
    """Every statement once, with the losses it was made at."""
    places: dict[str, list[str]] = {}
    for label, test in rows:
        places.setdefault(test.statement, []).extend([label] if label else [])
    return tuple(
        sentence(f"{list_text(labels)}: {statement}" if labels else statement)
        for statement, labels in places.items()
    )


def evidence(test: TheoryTest) -> str:
    """What a p-value says about its claim.

    >>> evidence(TheoryTest(name="mean_field", statement="", p_value=0.004))
    'strong evidence against it'
    >>> evidence(TheoryTest(name="mean_field", statement="", p_value=None))
    'not tested'
    """
    if test.p_value is None:
        return "not tested"
    return next((words for limit, words in _EVIDENCE if test.p_value < limit), "no evidence against it")


def tradeoff_table(targets: Sequence[TargetFit], unit: str) -> Table | None:
    """The trade-off in numbers: a row for every quantity and definition, a column for every target that fixes one."""
    fits = [
        (_head(target), target.tradeoff) for target in targets if target.tradeoff and has_tradeoff(target)
    ]
    if not fits:
        return None
    columns = [_quantities(fit, unit) for _, fit in fits]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(f"{name[0].upper()}{name[1:]}", *(column.get(name, "") for column in columns)) for name in names]
    return Table(("Quantity", *(label for label, _ in fits)), tuple(rows))


def has_tradeoff(target: TargetFit) -> bool:
    """Whether a target's steps fix its critical batch size at all; else no number of the fit says anything."""
    return target.tradeoff is not None and target.tradeoff.b_crit.status != "not_identified"


def _head(target: TargetFit) -> str:
    return "Value" if target.loss is None else f"L{target_label(target)[1:]}"


def _quantities(fit: TradeoffFit, unit: str) -> dict[str, str]:
    """Name with formula -> value in words; only what was measured."""
    found = {
        "S_min: the fewest steps, as B grows": _amount(fit.s_min, fit.s_min_low, fit.s_min_high),
        f"E_min: the fewest {unit}, as B shrinks": _amount(fit.e_min, fit.e_min_low, fit.e_min_high),
        fit.b_crit.definition: interval_text(fit.b_crit),
    }
    found |= {one.definition: interval_text(one) for one in fit.definitions}
    if fit.paper_b_crit is not None:
        found[
            "The paper's eq. 22 (1/S against 1/E, arXiv 2405.14578): biased low under noise, for comparison"
        ] = count_text(fit.paper_b_crit)
    if fit.u_shape is not None:
        turn = batch_text(fit.u_shape.from_batch_size)
        found["B_crit without the small batch sizes where the examples turn up again"] = (
            f"{interval_text(fit.u_shape.b_crit)}, fitted from {turn} on"
        )
    if fit.exponent is not None and fit.exponent.status != "not_identified":
        found["Exponent " + fit.exponent.definition] = exponent_text(fit.exponent)
    return found


def _amount(value: float | None, low: float | None, high: float | None) -> str:
    if value is not None:
        return f"{count_text(value)}{range_text(low, high, count_text)}"
    return range_text(low, high, count_text).strip(" ()") or "not identified"


def exponent_text(exponent: Interval) -> str:
    """An exponent with its interval, or its bound.

    >>> exponent_text(Interval(estimate=1.037, low=0.996, high=1.081, status="identified", definition=""))
    '1.04 (0.996 to 1.08)'
    >>> exponent_text(Interval(low=1.2, status="lower_bound", definition=""))
    '1.2 or more'
    """
    if exponent.estimate is not None:
        return f"{lr_text(exponent.estimate)}{range_text(exponent.low, exponent.high, lr_text)}"
    return range_text(exponent.low, exponent.high, lr_text).strip(" ()") or "not identified"


def tradeoff_remarks(targets: Sequence[TargetFit]) -> tuple[str, ...]:
    """What is missing for a trade-off, or how well the hyperbola holds: its exponent, the turn at small batch sizes."""
    return tuple(
        sentence(remark if target.loss is None else f"{target_label(target)}: {remark}")
        for target in targets
        if family_of(target).counts_steps()
        for remark in (
            _remarks(target.tradeoff) if target.tradeoff and has_tradeoff(target) else [_unidentified(target)]
        )
    )


def _unidentified(target: TargetFit) -> str:
    """Why a target has no trade-off, and what it takes."""
    sizes = sorted(one.batch_size for one in target.optimal_lr if one.steps is not None)
    if len(sizes) < FOR_TRADEOFF:
        known = counted(len(sizes), "batch size") if sizes else "no batch size"
        return (
            f"not identified: the steps at the optimal learning rate are known at {known}, and it takes {FOR_TRADEOFF}"
            " or more."
        )
    return (
        f"not identified: the steps at {counted(len(sizes), 'batch size')}, from {batch_text(sizes[0])} to"
        f" {batch_text(sizes[-1])}, leave B_crit open at both ends. It takes more batch sizes, from"
        f" {STRADDLE:g} times below B_crit to {STRADDLE:g} times above it, or more seeds."
    )


def _remarks(fit: TradeoffFit) -> list[str]:
    found = []
    exponent = fit.exponent
    if exponent is not None and exponent.status != "not_identified":
        above = exponent.low is not None and exponent.low > 1
        below = exponent.high is not None and exponent.high < 1
        text = f"left free, its exponent is {exponent_text(exponent)}"
        if above or below:
            pace = "faster" if above else "more slowly"
            found.append(
                f"the hyperbola does not hold: {text}, not 1. Steps fall with the batch size {pace} than it says,"
                " and B_crit depends on the batch sizes that were run."
            )
        else:
            found.append(f"the hyperbola holds: {text}, and 1 lies inside.")
    if fit.u_shape is not None:
        turn = batch_text(fit.u_shape.from_batch_size)
        found.append(
            f"below batch size {turn} the examples turn up again ({p_text(fit.u_shape.p_value)}), which the"
            f" hyperbola cannot do: fitted from {turn} on, B_crit is {interval_text(fit.u_shape.b_crit)}; over all"
            f" batch sizes it is {interval_text(fit.b_crit)}."
        )
    return found
