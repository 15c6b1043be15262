"""`moe`: a language model with fine-grained and shared experts, as in the paper's RedPajama experiment.

The network is GraniteMoeShared of `transformers`, which is Mixtral (Jiang et al. 2024, arXiv 2401.04088) plus experts
that every token takes beside the routed ones; its further multipliers are set to what makes it just that. A router
gives each token to the `experts_per_token` experts of highest score, weighted by the softmax over those scores; every
token goes to exactly that many, none is dropped. Experts are SwiGLU layers. They are fine-grained (DeepSeekMoE, Dai et
al. 2024, arXiv 2401.06066): those that one token takes, shared ones included, have as many weights together as the
feed-forward layer of a `gpt` of the same width. The paper (Li et al. 2024) says "Mixtral-like" and gives no sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from surge_sweeps.extras import require
from surge_sweeps.training.models.attention import causal_attention
from surge_sweeps.training.models.initial import initialize_language_model
from surge_sweeps.training.models.moe_shape import UNITS, check_moe_shape
from surge_sweeps.training.models.shape_settings import sequence_length, shape_setting

if TYPE_CHECKING:
    from surge_sweeps.training.workloads.base import Penalized, Settings

DEFAULTS = {
    "layers": 4,
    "width": 128,
    "heads": 4,
    "experts": 16,
    "shared_experts": 1,
    "experts_per_token": 3,
}

#: The weight of the load-balancing loss beside the cross entropy: alpha of Switch Transformer's equation 4.
BALANCE_WEIGHT = 0.01

_CONFIGURATION = "transformers.models.granitemoeshared.configuration_granitemoeshared"
_MODELING = "transformers.models.granitemoeshared.modeling_granitemoeshared"


def build(vocabulary: int, settings: Settings, generator: torch.Generator) -> nn.Module:
    """A language model with rotary positions, in 32 bits or less; token embedding and output layer share weights.

    Initial weights are normal with standard deviation 0.02, as Mixtral's. In training the model returns `Penalized`
    logits, see `balance_loss`; in evaluation the logits alone.

    Args:
        vocabulary: number of different tokens.

    Returns:
        (batch, tokens) int64 token ids -> (batch, tokens, vocabulary) logits of the next token at every position.

    Raises:
        TrainingError: a shape that no model can have.
        MissingExtraError: transformers is not installed.
    """
    layers, width, heads, experts, per_token = (
        shape_setting(settings, name, DEFAULTS)
        for name in ("layers", "width", "heads", "experts", "experts_per_token")
    )
    shared = shape_setting(settings, "shared_experts", DEFAULTS, at_least=0)
    check_moe_shape(width=width, heads=heads, experts=experts, experts_per_token=per_token)
    units = expert_units(width, per_token + shared)
    configuration = require(_CONFIGURATION, "hub")
    modeling = require(_MODELING, "hub")
    config = configuration.GraniteMoeSharedConfig(
        vocab_size=vocabulary,
        max_position_embeddings=sequence_length(settings),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        attention_multiplier=(width // heads) ** -0.5,
        num_local_experts=experts,
        num_experts_per_tok=per_token,
        intermediate_size=units,
        shared_intermediate_size=units * shared,
        attn_implementation=causal_attention(),
        experts_implementation="grouped_mm",
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):
        network = modeling.GraniteMoeSharedModel(config)
    initialize_language_model(network, generator)
    # Its tables of angles are computed when it is made, which the meta device could not.
    network.rotary_emb = modeling.GraniteMoeSharedRotaryEmbedding(config)
    return _NextToken(network, per_token)


def expert_units(width: int, experts: int) -> int:
    """Hidden units of one expert, of which a token takes `experts`.

    A feed-forward layer of 4 x width hidden units has 8 x width^2 weights; SwiGLU has three matrices, not two, so that
    8/3 x width units make as many.

    >>> expert_units(width=768, experts=4)
    512
    """
    exact = 8 * width / (3 * experts)
    return max(UNITS, round(exact / UNITS) * UNITS)


def balance_loss(router_logits: Tensor, experts_per_token: int) -> Tensor:
    """() how unevenly one layer's router spreads tokens: N * sum_i f_i P_i over its N experts.

    f_i is the share of all assignments of tokens that went to expert i, P_i the mean over tokens of its softmax
    probability; gradients flow through P alone. Switch Transformer (Fedus et al. 2021, arXiv 2101.03961), equations 4
    to 6, by `transformers`, with f_i divided by the experts per token: 1 is an even spread. It is taken layer by layer;
    over all layers at once, as in Mixtral's own code, the unevenness of one would make up for that of another. And it
    is taken over what is computed at once: of a batch that is cut into micro-batches, it is the mean of theirs.

    Args:
        router_logits: (tokens, experts).

    >>> even = 9 * torch.eye(4)
    >>> float(balance_loss(even, experts_per_token=1))
    1.0
    >>> all_to_one = even[:1]
    >>> round(float(balance_loss(all_to_one, experts_per_token=1)), 2)
    4.0
    """
    experts = router_logits.shape[-1]
    loss: Tensor = require(_MODELING, "hub").load_balancing_loss_func(
        (router_logits,), experts, experts_per_token
    )
    return loss / experts_per_token


class _NextToken(nn.Module):
    """Logits by the embedding itself, with the penalty of the routers in training."""

    #: Which experts are used, and by how many tokens, depends on the data.
    has_dynamic_shapes = True

    network: Any  # of a package that is imported when a model is built

    def __init__(self, network: nn.Module, experts_per_token: int) -> None:
        super().__init__()
        self.network = network
        self.experts_per_token = experts_per_token

    def forward(self, tokens: Tensor) -> Tensor | Penalized:
        output = self.network(input_ids=tokens, use_cache=False, output_router_logits=self.training)
        logits = functional.linear(output.last_hidden_state, self.network.embed_tokens.weight)
        if not self.training:
            return logits
        # Not at the top: that package imports this one.
        from surge_sweeps.training.workloads.base import Penalized

        losses = [balance_loss(scores, self.experts_per_token) for scores in output.router_logits]
        return Penalized(logits, BALANCE_WEIGHT * torch.stack(losses).mean())
