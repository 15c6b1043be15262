"""The settings that decide the shape of a model, with the model's defaults, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from surge_sweeps.errors import TrainingError

if TYPE_CHECKING:  # workloads import models, not the other way round
    from surge_sweeps.training.workloads.base import Settings


def shape_setting(settings: Settings, name: str, defaults: Mapping[str, int], at_least: int = 1) -> int:
    """A setting, or the model's default where it is not given.

    Raises:
        TrainingError: it is smaller than `at_least`.

    >>> from surge_sweeps.training.workloads.base import Settings
    >>> shape_setting(Settings(), "width", {"width": 64}), shape_setting(Settings(width=8), "width", {"width": 64})
    (64, 8)
    >>> shape_setting(Settings(width=0), "width", {"width": 64})
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrainingError: width is 0. Give 1 or more; the default is 64.
    """
    given: int | None = getattr(settings, name)
    value = defaults[name] if given is None else given
    if value < at_least:
        raise TrainingError(
            f"{name} is {value}.", f"Give {at_least} or more; the default is {defaults[name]}."
        )
    return value


def check_heads(width: int, heads: int, multiple: int = 1) -> None:
    """Check that the width of a transformer is cut evenly into heads.

    Args:
        multiple: that the width of a head must be a multiple of.

    Raises:
        TrainingError: it is not.

    >>> check_heads(width=128, heads=4)
    >>> check_heads(width=128, heads=3)
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrainingError: a width of 128 cannot be cut into 3 heads. Give a width that is a multiple of 3.
    """
    if width % (heads * multiple):
        raise TrainingError(
            f"a width of {width} cannot be cut into {heads} heads{' of an even width' if multiple == 2 else ''}.",
            f"Give a width that is a multiple of {heads * multiple}.",
        )


def sequence_length(settings: Settings) -> int:
    """The number of positions of a language model, which is that of its data.

    Raises:
        TrainingError: it is not given, or not positive.
    """
    if settings.sequence_length is None or settings.sequence_length < 1:
        raise TrainingError(
            f"sequence_length is {settings.sequence_length}.", "Give the number of tokens of an example."
        )
    return settings.sequence_length
