"""What the name of a metric says of it as a loss: of which data it is, and whether it is one at its step."""

from __future__ import annotations

import re
from typing import Literal

#: The data a loss is of; `plain` where the name does not say.
Kind = Literal["held_out", "test", "train", "plain"]

_LOSS = re.compile(r"(^|[/_. -])(loss|nll|cross[_-]?entropy|crossentropyloss)($|[/_. -])", re.IGNORECASE)
_WORD = re.compile(r"[/_. -]+")
#: Words that say which data the loss is of.
_KINDS: dict[Kind, frozenset[str]] = {
    "held_out": frozenset({"eval", "evaluation", "val", "valid", "validation", "dev", "heldout"}),
    "test": frozenset({"test"}),
    "train": frozenset({"train", "training"}),
}
#: Words that a loss is called by and that say nothing of which one it is.
_NEUTRAL = frozenset({"loss", "step", "epoch", "total", "avg", "average", "mean", "metrics"})
#: A loss with one of these words is a part, a scale or a record of one.
_NOT_A_LOSS = frozenset({"scale", "scaler", "std", "var", "aux", "auxiliary", "z", "kl", "grad"})
#: With one of these it is an extreme or a smoothed one, which lies elsewhere than the loss at its step.
_AGGREGATES = frozenset({
    "best", "lowest", "highest", "min", "max", "minimum", "maximum", "smooth", "smoothed", "ema", "running", "moving",
    "rolling", "cum", "cumulative", "cumul", "windowed",
})  # fmt: skip


def is_loss(name: str) -> bool:
    """Whether a metric is called a loss, be it a part or a record of one.

    >>> is_loss("best_val_loss"), is_loss("glossary")
    (True, False)
    """
    return _LOSS.search(name) is not None


def words(name: str) -> list[str]:
    """The words of a metric's name in lower case.

    >>> words("val/LM loss_epoch")
    ['val', 'lm', 'loss', 'epoch']
    """
    return [word for word in _WORD.split(name.lower()) if word]


def kind_of(name: str) -> Kind | None:
    """Which data a metric is the loss of; None for what is no loss.

    >>> kind_of("val/loss"), kind_of("train_loss_step"), kind_of("loss"), kind_of("loss_scale"), kind_of("glossary")
    ('held_out', 'train', 'plain', None, None)
    """
    found = words(name)
    if not is_loss(name) or _NOT_A_LOSS.intersection(found) or is_aggregate(name):
        return None
    return next((kind for kind, known in _KINDS.items() if known.intersection(found)), "plain")


def is_aggregate(name: str) -> bool:
    """Whether a metric is an extreme, a smoothed loss or the average of a training epoch.

    >>> [is_aggregate(name) for name in ("lowest_val_loss", "train_loss_epoch", "val_loss_epoch", "smooth_l1_loss")]
    [True, True, False, False]
    """
    # The smooth L1 loss is one.
    found = words(re.sub(r"smooth(?=[/_. -]?l1)", "", name.lower()))
    held_out = not (_KINDS["held_out"] | _KINDS["test"]).isdisjoint(found)
    return not _AGGREGATES.isdisjoint(found) or ("epoch" in found and not held_out)


def surplus(name: str) -> int:
    """How many words of the name are of no known meaning: `val/loss` has none, `val/wikitext/loss` has one."""
    return sum(
        word not in _NEUTRAL and not any(word in known for known in _KINDS.values()) for word in words(name)
    )
