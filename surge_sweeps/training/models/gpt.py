"""`gpt`: a dense decoder-only transformer of DistilGPT2's shape, and smaller ones, from `transformers`.

DistilGPT2 (Sanh et al. 2019) is GPT-2 (Radford et al. 2019) of 6 layers, 768 wide, 12 heads: 81.9 million parameters
with GPT-2's vocabulary of 50,257 tokens and 1,024 positions. Here vocabulary and positions are those of the data.
Token embedding and output layer share their weights, as in GPT-2. No dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from surge_sweeps.extras import require
from surge_sweeps.training.models.attention import causal_attention
from surge_sweeps.training.models.initial import LANGUAGE_MODEL_STD, initialize_language_model
from surge_sweeps.training.models.shape_settings import check_heads, sequence_length, shape_setting

if TYPE_CHECKING:
    from surge_sweeps.training.workloads.base import Settings

#: DistilGPT2's.
DEFAULTS = {"layers": 6, "width": 768, "heads": 12}


def build(vocabulary: int, settings: Settings, generator: torch.Generator) -> nn.Module:
    """A language model with as many positions as an example has tokens.

    Initial weights follow GPT-2: normal with standard deviation 0.02, divided by sqrt(2 x layers) where a layer writes
    to the residual stream; biases 0.

    Args:
        vocabulary: number of different tokens.

    Returns:
        (batch, tokens) int64 token ids -> (batch, tokens, vocabulary) logits of the next token at every position.

    Raises:
        TrainingError: a shape that no model can have.
        MissingExtraError: transformers is not installed.
    """
    layers, width, heads = (shape_setting(settings, name, DEFAULTS) for name in ("layers", "width", "heads"))
    check_heads(width, heads)
    configuration = require("transformers.models.gpt2.configuration_gpt2", "hub")
    modeling = require("transformers.models.gpt2.modeling_gpt2", "hub")
    config = configuration.GPT2Config(
        vocab_size=vocabulary,
        n_positions=sequence_length(settings),
        n_layer=layers,
        n_embd=width,
        n_head=heads,
        # GPT-2's own form of GELU by torch's kernel, which is faster than the library's spelled-out one.
        activation_function="gelu_pytorch_tanh",
        attn_implementation=causal_attention(),
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.device("meta"):
        empty = _NextToken(modeling.GPT2Model(config))
    residual_std = LANGUAGE_MODEL_STD / (2 * layers) ** 0.5
    return initialize_language_model(empty, generator, residual="c_proj", residual_std=residual_std)


class _NextToken(nn.Module):
    """Logits by the embedding itself: a second module with its weights would lose them when replicas are stacked."""

    network: Any  # of a package that is imported when a model is built

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.network(input_ids=tokens, use_cache=False).last_hidden_state
        return functional.linear(states, self.network.wte.weight)
