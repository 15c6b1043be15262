"""Cross entropy over a large vocabulary that holds one array of the logits' size less than torch's own.

torch keeps the logarithms of all probabilities for the backward pass. The gradient can as well be made of the logits,
which are there anyway, and one number a token, the logarithm of the sum of their exponentials. A gradient that is to
be differentiated again is made of the logits alone, by operations that torch differentiates, and holds more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

#: Logits that are held a second time, in 32 bits, while the loss of many tokens is made.
_LOGITS_AT_ONCE = 2**22


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """() mean cross entropy of all tokens, in nats; in 32 bits where the logits have 16.

    Args:
        logits: (..., vocabulary) of a floating type. targets: (...,) int64, each below the vocabulary.

    >>> logits = torch.tensor([[[0.0, 0.0], [9.0, -9.0]]])
    >>> round(float(token_cross_entropy(logits, torch.tensor([[1, 0]]))), 4)
    0.3466
    """
    losses: Tensor = _TokenLosses.apply(logits.flatten(0, -2), targets.flatten())[0]  # type: ignore[no-untyped-call]
    return losses.mean()


def _rows_at_once(logits: Tensor) -> int:
    return max(1, _LOGITS_AT_ONCE // logits.shape[-1])


class _TokenLosses(torch.autograd.Function):
    """(tokens, vocabulary) logits and (tokens,) targets -> (tokens,) losses, and what the gradient is made of."""

    @staticmethod
    def forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        parts = torch.split(logits, _rows_at_once(logits))
        sums = torch.cat([part.to(wide).logsumexp(-1) for part in parts])
        chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return sums - chosen, sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        logits, targets = inputs
        _, sums = output
        ctx.mark_non_differentiable(sums)
        ctx.save_for_backward(logits, targets, sums)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits, targets, sums = ctx.saved_tensors
        scale = gradients[0].unsqueeze(-1)
        if torch.is_grad_enabled():
            # Not of the kept sums: to autograd they are constants, and the second derivative would lack their share.
            shares = logits.softmax(-1, dtype=sums.dtype) * scale
            return shares.scatter_add(-1, targets.unsqueeze(-1), -scale).to(logits.dtype), None
        # In parts only where they are wider than the gradient: putting them together takes an array more.
        rows = len(logits) if logits.dtype == sums.dtype else _rows_at_once(logits)
        parts = []
        for values, shift, target, factor in zip(
            *(torch.split(rows_of, rows) for rows_of in (logits, sums, targets, scale)), strict=True
        ):
            part = (values - shift.unsqueeze(-1)).exp_().mul_(factor)
            part.scatter_add_(-1, target.unsqueeze(-1), -factor)
            parts.append(part.to(logits.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], logits: Tensor, targets: Tensor) -> tuple[Any, Any]:
        # Members of an ensemble are more tokens.
        logits, targets = (
            value.unsqueeze(0).expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            for value, dim in zip((logits, targets), in_dims, strict=True)
        )
        losses, sums = _TokenLosses.apply(logits.flatten(0, 1), targets.flatten())  # type: ignore[no-untyped-call]
        shape = targets.shape
        return (losses.view(shape), sums.view(shape)), (0, 0)
