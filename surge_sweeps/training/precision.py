"""The precision that a run computes in; parameters, their gradients and the optimizer's state have 32 bits in each.

`bf16` is mixed precision (Micikevicius et al. 2018, arXiv 1710.03740) with bfloat16, whose exponent is that of 32
bits, so that no loss needs scaling. torch's autocast decides operation by operation: products of matrices and
convolutions take 16 bits, the loss and what it is summed from 32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from surge_sweeps.errors import UnknownNameError

#: What products are rounded to; None: not at all.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16}


def check_precision(name: str | None) -> None:
    """None, the default, is `fp32`.

    Raises:
        UnknownNameError: there is no precision of that name; the message lists the valid ones.

    >>> check_precision("fp8")
    Traceback (most recent call last):
    ...
    surge_sweeps.errors.UnknownNameError: unknown precision 'fp8'. Valid: bf16, fp32.
    """
    if name is not None and name not in PRECISIONS:
        raise UnknownNameError("precision", name, PRECISIONS)


def computing_in(precision: str | None, device: torch.device) -> AbstractContextManager[object]:
    """In this context a model and its loss compute in a precision; the backward pass follows what they did.

    >>> layer, inputs = torch.nn.Linear(2, 2), torch.ones(1, 2)
    >>> with computing_in("bf16", inputs.device):
    ...     layer(inputs).dtype, torch.nn.functional.cross_entropy(layer(inputs), torch.tensor([0])).dtype
    (torch.bfloat16, torch.float32)
    """
    dtype = None if precision is None else PRECISIONS[precision]
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
