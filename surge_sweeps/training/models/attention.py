"""Causal attention for the models of `transformers`, told once that examples are whole sequences without padding.

Under its own name for torch's attention the library looks in every pass whether an example packs several sequences,
which on a GPU makes the host wait for all that is under way. Under a name that it has no masks for, it leaves the mask
to the attention itself, which is causal where no mask is given.
"""

from __future__ import annotations

from surge_sweeps.extras import require

_NAME = "surge_sweeps_causal"


def causal_attention() -> str:
    """What a configuration's `attn_implementation` is set to.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    attention = require("transformers.integrations.sdpa_attention", "hub").sdpa_attention_forward
    require("transformers.modeling_utils", "hub").ALL_ATTENTION_FUNCTIONS.register(_NAME, attention)
    return _NAME
