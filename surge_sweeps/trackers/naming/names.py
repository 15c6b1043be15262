"""What was chosen to be read: `ReadNames` and its parts, and the errors for what cannot be chosen."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from surge_sweeps.curves import Problem
from surge_sweeps.errors import SurgeError, UnknownNameError
from surge_sweeps.trackers.base import EVAL_LOSS, EXAMPLES, TOKENS, column_flag

#: What a step axis, or a batch size, counts.
Counts = Literal["steps", "examples", "tokens"]

#: What the user calls the store's own step: W&B's, or the one that a point on MLflow was logged with.
OWN_STEP = "_step"

#: How many candidates an error lists.
_LISTED = 20

_NUMBER = re.compile(r"[+-]?((\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|inf|nan|infinity)", re.IGNORECASE)


class AmbiguousNameError(SurgeError):
    """What is to be read can be one of several things, or none for certain; the message lists the flags to give.

    Args:
        what: the cause, one sentence. option: the field of `ReadOptions` that decides. candidates: values for it.

    >>> str(AmbiguousNameError("two metrics may be the loss.", "loss", ["val/loss", "val/ce_loss"]))
    'two metrics may be the loss. Give one of: --loss-column val/loss, --loss-column val/ce_loss.'
    """

    def __init__(self, what: str, option: str, candidates: Sequence[str], advice: str = "") -> None:
        flag = column_flag({"batch_size": "batch"}.get(option, option))
        texts = [shlex.quote(name) for name in candidates[:_LISTED]]
        choices = ", ".join(f"{flag} {text}" for text in texts)
        super().__init__(what, f"Give {'one of: ' if len(texts) > 1 else ''}{choices}.{advice}")
        self.option = option
        self.candidates = tuple(candidates)


class NothingLikeItError(UnknownNameError):
    """Nothing in the runs is called like a thing that is needed.

    Args:
        what: the thing, with its article. option: the field of `ReadOptions` that names it. valid: what there is.

    >>> str(NothingLikeItError("a batch size", "batch_size", ["data.bs", "lr"]))
    'the runs have nothing that is called like a batch size. Name it: --batch-column NAME. They have: data.bs, lr.'
    """

    def __init__(self, what: str, option: str, valid: Iterable[str]) -> None:
        super().__init__(what, option, valid)
        flag = column_flag({"batch_size": "batch"}.get(option, option))
        self.what = f"the runs have nothing that is called like {what}."
        self.hint = f"Name it: {flag} NAME. They have: {', '.join(self.valid) or 'nothing'}."
        self.args = (f"{self.what} {self.hint}",)


def number(text: str | None) -> float | None:
    """The number that a setting's text is, or None.

    >>> number("1e-3"), number("inf"), number("auto"), number(None)
    (0.001, inf, None, None)
    """
    return float(text) if text is not None and _NUMBER.fullmatch(text.strip()) else None


@dataclass(frozen=True)
class Product:
    """A product of settings and a number, such as `micro_batch * accumulation * 8`.

    >>> Product(("micro", "accumulation"), 8).of({"micro": "4", "accumulation": "2"})
    64.0
    >>> str(Product(("micro", "accumulation"), 8))
    'micro * accumulation * 8'
    """

    keys: tuple[str, ...]
    scale: float = 1.0

    def of(self, params: Mapping[str, str]) -> float | None:
        """Its value in a run's settings; None where one is missing or no number."""
        factors = [number(params.get(key)) for key in self.keys]
        return None if None in factors else math.prod([self.scale, *(x for x in factors if x is not None)])

    def times(self, *keys: str) -> Product:
        """With more factors."""
        return Product((*self.keys, *keys), self.scale)

    def __str__(self) -> str:
        scale = [] if self.scale == 1 else [f"{self.scale:g}"]
        return " * ".join([*self.keys, *scale])


def parse_product(text: str, known: Iterable[str]) -> Product:
    """Read a product as the user types it; a setting whose very name is the text comes first.

    Raises:
        UnknownNameError: a factor is neither a number above 0 nor a known setting. SurgeError: no setting at all.

    >>> parse_product("micro * 8", ["micro"])
    Product(keys=('micro',), scale=8.0)
    """
    names = set(known)
    if text in names:
        return Product((text,))
    keys: list[str] = []
    scale = 1.0
    for factor in (part.strip() for part in text.split("*")):
        value = None if factor in names else number(factor)
        if value is None:
            if factor not in names:
                raise UnknownNameError("parameter", factor, names)
            keys.append(factor)
        elif 0 < value < math.inf:
            scale *= value
        else:
            raise SurgeError(f"the factor {factor} in {text!r} is no number above 0.", "Write a * b * 8.")
    if not keys:
        raise SurgeError(
            f"{text!r} names no parameter.", "Give one that the runs record, or a product: a * b * 8."
        )
    return Product(tuple(keys), scale)


@dataclass(frozen=True)
class StepAxis:
    """Where a point's optimizer step comes from.

    Attributes:
        metric: a metric in the same row; None: the store's own step.
        counts: what it counts. Steps follow by dividing by the batch size.
    """

    metric: str | None = None
    counts: Counts = "steps"


@dataclass(frozen=True)
class ReadNames:
    """Everything `assemble` needs to know of the names in a project.

    Attributes:
        loss: the metric that is the loss. lr, seed: settings. batch: the batch size, in the batch unit.
        step: where steps come from. batch_counts: what the batch size counts. sequence_length: the setting that
            turns examples into tokens, where the step axis counts the one and the batch size the other.
        examples: the metric that counts what was seen, in the batch unit; None: step times batch size.
        ignored: settings that are no hyper-parameters of their own (factors of the batch size, names of folders).
        foreign: this tool did not launch the runs, so their settings may hold labels that people read.
        read_as: what was chosen, in words, for the user.
        problems: what the user should know about the choice.
        left_out: run -> why it is not read.
        confirmed_by: the counter whose newest values alone say that the store's own step counts optimizer steps.
        doubtful_step: the step axis is a guess, by its name or from a counter.
    """

    loss: str = EVAL_LOSS
    lr: str = "lr"
    batch: Product = Product(("batch_size",))
    seed: str = "seed"
    step: StepAxis = StepAxis()
    batch_counts: Counts = "examples"
    sequence_length: str | None = None
    examples: str | None = EXAMPLES
    ignored: frozenset[str] = frozenset()
    foreign: bool = False
    read_as: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    confirmed_by: str | None = None
    doubtful_step: bool = False

    def steps_per_count(self, params: Mapping[str, str]) -> float | None:
        """What one optimizer step adds to the step axis in a run with these settings; None where unknown.

        >>> names = ReadNames(step=StepAxis("seen", "tokens"), sequence_length="length")
        >>> names.steps_per_count({"batch_size": "8", "length": "1024"})
        8192.0
        """
        if self.step.counts == "steps":
            return 1.0
        batch = self.batch.of(params)
        length = None if self.sequence_length is None else number(params.get(self.sequence_length))
        if self.step.counts == self.batch_counts:
            length = 1.0
        if batch is None or length is None or not 0 < length < math.inf:
            return None
        found = batch * length if self.step.counts == "tokens" else batch / length
        return found if 0 < found < math.inf else None


def unit_metric(batch_unit: str) -> str:
    """The run record's metric that counts what a batch counts."""
    return TOKENS if batch_unit == "tokens" else EXAMPLES
