"""Which shapes a mixture of experts can have; known without making one, and without the library that does."""

from __future__ import annotations

from surge_sweeps.errors import TrainingError
from surge_sweeps.training.models.shape_settings import check_heads

#: The width and an expert's hidden units are multiples of this: torch's grouped product wants rows of 16 bytes.
UNITS = 8


def check_moe_shape(*, width: int, heads: int, experts: int, experts_per_token: int) -> None:
    """Check that there can be a mixture of experts of that shape.

    Raises:
        TrainingError: there cannot.

    >>> check_moe_shape(width=128, heads=4, experts=16, experts_per_token=3)
    >>> check_moe_shape(width=64, heads=4, experts=2, experts_per_token=3)
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.TrainingError: experts_per_token is 3, and there are 2 experts. Give 2 or fewer, ...
    """
    check_heads(width, heads, multiple=2)  # rotary positions turn pairs of numbers
    if width % UNITS:
        raise TrainingError(f"a width of {width} is no multiple of {UNITS}.", "Give one that is.")
    if experts_per_token > experts:
        raise TrainingError(
            f"experts_per_token is {experts_per_token}, and there are {experts} experts.",
            f"Give {experts} or fewer, or more experts.",
        )
