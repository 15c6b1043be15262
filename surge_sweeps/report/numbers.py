"""Numbers as a person reads them: two or three significant digits, 12k instead of 12000, open ends in words."""

from __future__ import annotations

import math

#: Above this a count is shortened to k, M or B.
LARGEST_WRITTEN_OUT = 10_000


def significant(value: float, digits: int = 3) -> float:
    """`value` rounded to `digits` significant digits.

    >>> significant(0.0041237), significant(-1234.5), significant(0)
    (0.00412, -1230.0, 0.0)
    """
    return float(f"{value:.{digits}g}")


def lr_text(lr: float, digits: int = 3) -> str:
    """A learning rate, never more than four zeros in front.

    >>> lr_text(0.0041237), lr_text(3.16e-5), lr_text(1.0), lr_text(0.1237, 2)
    ('0.00412', '3.16e-5', '1', '0.12')
    """
    if lr != 0 and abs(lr) < 1e-4:
        mantissa, exponent = f"{lr:.{digits - 1}e}".split("e")
        short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{short}e{int(exponent)}"
    return f"{significant(lr, digits):.10f}".rstrip("0").rstrip(".")


def lr_end(lr: float) -> str:
    """The end of a learning rate's interval: two digits are all it can claim.

    >>> lr_end(0.0041237)
    '0.0041'
    """
    return lr_text(lr, 2)


def count_text(count: float) -> str:
    """A number of steps, examples or a batch size that was estimated.

    >>> [count_text(n) for n in (3.26, 74.31, 1437, 12000, 1.25e6, 3e9)]
    ['3.3', '74', '1440', '12k', '1.25M', '3B']
    """
    if abs(count) < 10:
        return f"{count:.2g}"
    for scale, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # Rounded before it is compared, so that 999,999 reads 1M and not 1e+03k.
        if abs(significant(count)) >= max(scale, LARGEST_WRITTEN_OUT):
            return f"{significant(count) / scale:.3g}{suffix}"
    return f"{significant(count):.0f}"


def batch_text(batch_size: float) -> str:
    """A batch size that was run: exact up to 99,999, then shortened where nothing is lost.

    >>> [batch_text(n) for n in (4, 4096, 192_000, 196_608)]
    ['4', '4096', '192k', '196608']
    """
    whole = round(batch_size)
    for scale, suffix in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if whole >= max(scale, 100_000) and whole * 100 % scale == 0:
            return f"{whole / scale:g}{suffix}"
    return str(whole)


def size_text(size: float) -> str:
    """A bound of a batch size: one that was run is written out, any other has the digits of an estimate.

    >>> size_text(1024.0), size_text(1021.6)
    ('1024', '1020')
    """
    return batch_text(size) if size == round(size) else count_text(size)


def loss_text(loss: float) -> str:
    """A loss, three significant digits.

    >>> loss_text(0.16412), loss_text(1.8), loss_text(5.2134)
    ('0.164', '1.8', '5.21')
    """
    return f"{loss:.3g}"


def percent_text(share: float) -> str:
    """A share of one in percent.

    >>> [percent_text(share) for share in (0.62, 0.004, 0.9999, 0.0)]
    ['62%', 'under 1%', 'over 99%', '0%']
    """
    if 0 < share < 0.01:
        return "under 1%"
    return "over 99%" if 0.99 < share < 1 else f"{share:.0%}"


def factor_text(factor: float) -> str:
    """How many times, two or three digits.

    >>> factor_text(1.534), factor_text(12.3), factor_text(2e8)
    ('1.53', '12', 'over 1000')
    """
    if factor >= 1000:
        return "over 1000"
    return f"{factor:.3g}" if factor < 10 else f"{factor:.2g}"


def list_text(items: list[str]) -> str:
    """Words in a row.

    >>> list_text(["4", "8", "16"]), list_text(["4"])
    ('4, 8 and 16', '4')
    """
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


#: Mantissas of the ticks on a log axis, the finest first; a short axis would get none from 1, 2, 5.
_TICK_PATTERNS: tuple[tuple[float, ...], ...] = (
    *(tuple(round(1 + step * place, 1) for place in range(round(9 / step))) for step in (0.1, 0.2, 0.5)),
    (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0),
    (1.0, 2.0, 5.0),
    (1.0, 3.0),
    (1.0,),
)


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round values for the ticks of a log axis from `low` to `high` (both > 0), at most about `most` of them.

    >>> log_ticks(0.002, 0.06)
    [0.002, 0.005, 0.01, 0.02, 0.05]
    >>> log_ticks(1e-5, 1.0)
    [1e-05, 0.0001, 0.001, 0.01, 0.1, 1.0]
    >>> log_ticks(0.056, 0.073)
    [0.06, 0.065, 0.07]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in _TICK_PATTERNS:
        ticks = [
            significant(mantissa * 10.0**exponent)
            for exponent in range(first, last + 1)
            for mantissa in mantissas
            if low * 0.999 <= mantissa * 10.0**exponent <= high * 1.001
        ]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]
