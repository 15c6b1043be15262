"""The result of a fit, as plain data: the contract of `fit.json`, schema version 1.

Numbers that the data cannot fix are None, never NaN or infinite: an open end of an interval is None on that side.
All intervals are 95%. B_peak, B_crit and B_noise are three separate quantities, each with its definition in words.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Protocol = Literal["reach", "gain", "final", "steps", "given"]
Start = Literal["scratch", "crossing", "checkpoint"]
OptimumStatus = Literal["ok", "edge_low", "edge_high", "too_few", "diverged", "given"]
IntervalStatus = Literal["identified", "lower_bound", "upper_bound", "not_identified"]
VerdictName = Literal["surge", "saturation", "power", "sqrt", "linear", "constant", "inconclusive"]
BatchUnit = Literal["examples", "sequences", "tokens"]


class _Contract(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, populate_by_name=True)


class ProblemRecord(_Contract):
    """Something wrong in the data: the run it concerns, or None for all of them, and what was done about it."""

    run: str | None
    what: str


class Interval(_Contract):
    """An estimate with a 95% interval; what it estimates stands in `definition`."""

    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    status: IntervalStatus = "not_identified"
    definition: str


class Slope(_Contract):
    """The exponent b of B ~ L**(-b) over the loss targets; `p_value` tests b = 0, two-sided.

    `p_value_kaplan` tests b = 1/0.21 = 4.76 (Kaplan et al. 2020, arXiv 2001.08361). `saturating_weight` is the Akaike
    weight of growth that levels off against this power law; None where the targets cannot tell.
    """

    exponent: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    status: IntervalStatus = "not_identified"
    p_value_kaplan: float | None = None
    saturating_weight: float | None = None


class OptimalLR(_Contract):
    """The optimal learning rate at one batch size.

    `lr`, `low` and `high` are None where open or unknown. `steps` is the number of steps at the optimum (protocols
    reach and steps). `runs` counts every run at this batch size, diverged and censored ones included. `flat_band` is
    the range of learning rates that the data cannot tell from the best.
    """

    batch_size: int
    lr: float | None
    low: float | None
    high: float | None
    status: OptimumStatus
    steps: float | None = None
    runs: int
    flat_band: tuple[float | None, float | None]


class EdgePoint(_Contract):
    """The largest learning rate that trains at one batch size."""

    batch_size: int
    lr: float


class UShape(_Contract):
    """E(B) turns up again at small batch sizes: `p_value` of the hyperbola against that turn.

    `b_crit` is the hyperbola fitted from `from_batch_size` on alone.
    """

    p_value: float
    from_batch_size: int
    b_crit: Interval


class TradeoffFit(_Contract):
    """Steps against examples: S = s_min + e_min / B, B_crit = e_min / s_min (paper eq. 20).

    `exponent` is q of S = s_min (1 + (B_crit/B)^q), 1 for the hyperbola. `paper_b_crit` is the paper's linear fit of
    1/S against 1/E (eq. 22), for comparison only: noise in the steps biases it low. `definitions` are other critical
    batch sizes in use, converted from `b_crit`. `u_shape` is None unless examples turn up again at small batch sizes.
    """

    s_min: float | None
    s_min_low: float | None
    s_min_high: float | None
    e_min: float | None
    e_min_low: float | None
    e_min_high: float | None
    b_crit: Interval
    exponent: Interval | None = None
    paper_b_crit: float | None = None
    definitions: list[Interval] = []
    u_shape: UShape | None = None


class LawFit(_Contract):
    """One candidate law fitted to the optimal learning rates.

    `weight` is its Akaike weight among the candidates; `left_out_error` the root mean square error, in log LR, with
    which it predicts a batch size left out of its fit; `selection_frequency` the share of the bootstrap draws in which
    its AICc is the lowest.
    """

    name: str
    parameters: dict[str, float]
    aicc: float | None
    weight: float | None
    left_out_error: float | None = None
    selection_frequency: float | None = None


class TheoryTest(_Contract):
    """A claim of the theory put to these data: the claim in words, what was found, and the p-value of the claim."""

    name: Literal["mean_field", "b_peak_is_b_noise"]
    statement: str
    p_value: float | None


class TargetFit(_Contract):
    """Everything found under one observable: a protocol at one loss, horizon and start."""

    protocol: Protocol
    loss: float | None
    horizon_steps: int | None
    start: Start | None
    optimal_lr: list[OptimalLR]
    stability_edge: list[EdgePoint]
    tradeoff: TradeoffFit | None
    laws: list[LawFit]
    verdict: VerdictName
    reasons: list[str]
    b_peak: Interval
    b_noise: Interval
    minimum_detectable_kappa: float | None
    tests: list[TheoryTest] = []


class DriftFit(_Contract):
    """How B_peak and B_crit move as the loss falls."""

    b_peak: Slope
    b_crit: Slope


class PhaseRecord(_Contract):
    """One stretch of a schedule: from how many examples on, which batch size and learning rate.

    `loss` is the loss that the phase leads down to; None beyond the lowest one measured.
    """

    from_examples: float
    loss: float | None
    batch_size: int
    lr: float
    lr_low: float | None
    lr_high: float | None
    status: Literal["measured", "extrapolated"]


class ScheduleRecord(_Contract):
    """Batch size and learning rate over the examples seen, with what was assumed."""

    batch_unit: BatchUnit
    law: str
    phases: list[PhaseRecord]
    assumptions: list[str]


class GroupFit(_Contract):
    """The fits of one set of hyper-parameters, `group` naming those that vary over the project."""

    group: dict[str, str | int | float | bool | None]
    targets: list[TargetFit]
    drift: DriftFit
    # `schedule` is a method name of no BaseModel, so the contract's key can be the attribute's name.
    schedule: ScheduleRecord | None = None

    def label(self) -> str:
        """The group in words, for titles.

        >>> from surge_sweeps.fitting.result import DriftFit, GroupFit, Slope
        >>> GroupFit(group={"optimizer": "adamw"}, targets=[], drift=DriftFit(b_peak=Slope(), b_crit=Slope())).label()
        'optimizer adamw'
        """
        return ", ".join(f"{key} {value}" for key, value in self.group.items()) or "all runs"


class SurgeFit(_Contract):
    """What `fit` returns and `fit.json` holds."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    project: str
    source: str
    batch_unit: BatchUnit
    problems: list[ProblemRecord]
    groups: list[GroupFit]

    def to_dict(self) -> dict[str, Any]:
        """The contents of `fit.json`: only dicts, lists, strings, finite numbers, booleans and None."""
        return self.model_dump(mode="json", by_alias=True)

    def summary(self) -> str:
        """The whole fit in plain text: verdicts with their reasons and every optimal learning rate."""
        from surge_sweeps.fitting.summary import summarize

        return summarize(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SurgeFit:
        """Read back what `to_dict` wrote. Raises `pydantic.ValidationError` on anything else."""
        return cls.model_validate(data)


def json_schema() -> dict[str, Any]:
    """The JSON schema of `fit.json`, as shipped in `fit.schema.json`."""
    return SurgeFit.model_json_schema(by_alias=True, mode="serialization")
