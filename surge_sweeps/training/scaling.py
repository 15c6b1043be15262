"""Hyper-parameters that are meant for one batch size, carried to another.

A fixed beta2 averages over fewer examples at a smaller batch, and a fixed decoupled weight decay forgets faster in
examples: both move the optimal learning rate with the batch size, so that a sweep with them fixed and one with them
scaled are different experiments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from surge_sweeps.errors import TrainingError


def beta2_of_half_life(half_life: float, batch: float) -> float:
    """The decay per update under which a squared gradient's weight halves every `half_life`.

    beta2 = (1/2)^(batch / half_life), which is beta2* = beta2^(B* / B) between two batch sizes (Marek et al. 2025,
    arXiv 2507.07101); a known setting has half_life = batch log(1/2) / log(beta2). Once a batch is longer than the
    half-life, beta2 is below 1/2 and little is averaged.

    Args:
        half_life: > 0, in examples or in tokens. batch: what is trained on from one update to the next, in the same.

    Raises:
        TrainingError: the half-life is not positive and finite, or so long that no decay is left in double precision.

    >>> round(beta2_of_half_life(7_084_917, 512 * 1024), 4), round(beta2_of_half_life(7_084_917, 1024), 4)
    (0.95, 0.9999)
    """
    if not 0 < half_life < math.inf:
        raise TrainingError(f"the half-life of beta2 is {half_life:g}.", "Give a positive, finite number.")
    beta2 = float(0.5 ** (batch / half_life))
    if beta2 == 1.0:
        raise TrainingError(
            f"a half-life of {half_life:g} at a batch of {batch:g} leaves beta2 at 1, which averages nothing in.",
            "Give a shorter half-life.",
        )
    return beta2


def effective_hyper_parameters(
    values: Mapping[str, float],
    *,
    batch_size: int,
    tokens_per_example: int | None = None,
    beta2_half_life_examples: float | None = None,
    beta2_half_life_tokens: float | None = None,
    weight_decay_batch_size: float | None = None,
    beta2_every_steps: int = 1,
) -> dict[str, float]:
    """The hyper-parameters that the optimizer gets at this batch size.

    Args:
        values: the optimizer's hyper-parameters, its defaults filled in; what is not scaled is returned as it is.
        batch_size: examples a step. tokens_per_example: of text; None: the data have no tokens.
        beta2_half_life_examples, beta2_half_life_tokens: replaces beta2; see `beta2_of_half_life`. At most one.
        weight_decay_batch_size: the batch size for which `weight_decay` is meant. At another it is in proportion,
            weight_decay * batch_size / weight_decay_batch_size, which at a fixed learning rate keeps the time scale
            tau = B / (lr lambda D) of AdamW's average of updates, as a share of the D examples of the run (Bergsma et
            al. 2025, arXiv 2505.13738). That is about decoupled decay; where decay is L2 it only scales the penalty.
        beta2_every_steps: of the optimizer; see `OptimizerSpec`.

    Raises:
        TrainingError: both half-lives are given, or one in tokens for data without, or for an optimizer without beta2;
            a batch size for a weight decay that is 0 or that the optimizer does not have; a number out of range.

    >>> effective_hyper_parameters(
    ...     {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
    ...     batch_size=64, beta2_half_life_examples=64, weight_decay_batch_size=256,
    ... )
    {'beta1': 0.9, 'beta2': 0.5, 'weight_decay': 0.025}
    """
    effective = dict(values)
    if beta2_half_life_examples is not None or beta2_half_life_tokens is not None:
        effective["beta2"] = _scaled_beta2(
            values,
            batch_size * beta2_every_steps,
            tokens_per_example,
            beta2_half_life_examples,
            beta2_half_life_tokens,
        )
    if weight_decay_batch_size is not None:
        effective["weight_decay"] = _scaled_weight_decay(values, batch_size, weight_decay_batch_size)
    return effective


def _scaled_beta2(
    values: Mapping[str, float],
    examples: int,
    tokens_per_example: int | None,
    half_life_examples: float | None,
    half_life_tokens: float | None,
) -> float:
    if half_life_examples is not None and half_life_tokens is not None:
        raise TrainingError(
            "beta2_half_life_examples and beta2_half_life_tokens are both given.", "Give one of them."
        )
    if "beta2" not in values:
        raise TrainingError(
            "a half-life of beta2 is given, and the optimizer takes no beta2.",
            "Leave it out, or choose an optimizer with beta2, such as adamw.",
        )
    if half_life_examples is not None:
        return beta2_of_half_life(half_life_examples, examples)
    if half_life_tokens is None or tokens_per_example is None:
        raise TrainingError(
            "beta2_half_life_tokens is given, and the data have no tokens.",
            "Give beta2_half_life_examples.",
        )
    return beta2_of_half_life(half_life_tokens, examples * tokens_per_example)


def _scaled_weight_decay(values: Mapping[str, float], batch_size: int, meant_for: float) -> float:
    if not 0 < meant_for < math.inf:
        raise TrainingError(f"weight_decay_batch_size is {meant_for:g}.", "Give a positive batch size.")
    if "weight_decay" not in values:
        raise TrainingError(
            "weight_decay_batch_size is given, and the optimizer takes no weight_decay.", "Leave it out."
        )
    if values["weight_decay"] == 0:
        raise TrainingError(
            "weight_decay_batch_size is given, and weight_decay is 0.",
            "Give the weight_decay that is meant at that batch size, or leave both out.",
        )
    return values["weight_decay"] * batch_size / meant_for
