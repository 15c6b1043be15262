"""Sizes, initial parameters and outputs against the published ones and the libraries' own models."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from surge_sweeps.training.models import cnn, gpt, mlp, moe, resnet18
from surge_sweeps.training.workloads.base import Penalized, Settings

transformers = pytest.importorskip("transformers")

TEXT = Settings(sequence_length=12, layers=2, width=32, heads=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tokens(batch: int = 2, length: int = 12) -> Tensor:
    return torch.randint(0, 50, (batch, length), generator=generator(5))


def test_mlp_and_cnn_have_the_sizes_of_their_layers() -> None:
    assert size(mlp.build((1, 28, 28), 10, Settings(), generator())) == 785 * 256 + 257 * 256 + 257 * 10
    layers = [
        layer
        for layer in cnn.build((3, 32, 32), 10, Settings(width=8), generator())
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (8, 3, 3, 3),
        (16, 8, 3, 3),
        (32, 16, 3, 3),
        (32, 32 * 4 * 4),
        (10, 32),
    ]


def test_resnet18_has_the_published_size_and_for_small_images_that_with_a_3_x_3_stem() -> None:
    full = size(resnet18.build((3, 224, 224), 1000, Settings(), generator()))
    assert full == 11_689_512
    small = size(resnet18.build((3, 64, 64), 200, Settings(), generator()))
    assert small == full - 3 * 64 * (7 * 7 - 3 * 3) - 513 * (1000 - 200)


def test_resnet18_keeps_the_pixels_of_small_images() -> None:
    model = resnet18.build((3, 32, 32), 10, Settings(width=8), generator())
    sides = []
    for stage in model.network.resnet.encoder.stages:
        stage.register_forward_hook(lambda *call: sides.append(tuple(call[-1].shape[1:])))
    model(torch.zeros(2, 3, 32, 32))
    assert sides == [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]


def test_gpt_has_distilgpt2s_size() -> None:
    assert size(gpt.build(50_257, Settings(sequence_length=1024), generator())) == 81_912_576


def test_gpt_computes_what_the_librarys_language_model_does() -> None:
    model = gpt.build(50, TEXT, generator()).eval()
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_layer=2, n_embd=32, n_head=2, bos_token_id=None, eos_token_id=None
    )
    own = transformers.GPT2LMHeadModel(config).eval()
    own.transformer.load_state_dict(model.network.state_dict())
    torch.testing.assert_close(model(tokens()), own(tokens()).logits, rtol=1e-4, atol=1e-5)


def test_moe_without_shared_experts_is_mixtral() -> None:
    settings = Settings(sequence_length=12, layers=2, width=32, heads=2, experts=6, shared_experts=0)
    model = moe.build(50, settings, generator()).eval()
    config = transformers.MixtralConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=moe.expert_units(32, 3),
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=6,
        num_experts_per_tok=3,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    mixtral = transformers.MixtralForCausalLM(config).eval()
    renamed = {
        name.replace("block_sparse_moe.router", "mlp.gate").replace("block_sparse_moe", "mlp"): value
        for name, value in model.network.state_dict().items()
    }
    mixtral.model.load_state_dict(renamed)
    torch.testing.assert_close(model(tokens()), mixtral(tokens()).logits, rtol=1e-4, atol=1e-5)
    assert size(model) == size(mixtral)


@pytest.mark.parametrize("model", [gpt, moe])
def test_a_position_sees_no_later_token(model: object) -> None:
    network = model.build(50, TEXT, generator()).eval()  # type: ignore[attr-defined]
    first = tokens()
    second = first.clone()
    second[:, 8:] = (second[:, 8:] + 1) % 50
    before, after = network(first), network(second)
    torch.testing.assert_close(before[:, :8], after[:, :8], rtol=1e-4, atol=1e-5)
    assert (before[:, 8:] != after[:, 8:]).any(dim=-1).all()


def own_initial(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that the library itself would give a model of the same configuration."""
    torch.manual_seed(11)
    return dict(type(model)(model.config).named_parameters())  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["gpt", "moe", "resnet18"])
def test_initial_parameters_follow_the_librarys_rule(name: str) -> None:
    with torch.random.fork_rng():
        if name == "resnet18":
            network = resnet18.build((3, 96, 96), 50, Settings(width=16), generator()).network
        else:
            settings = Settings(sequence_length=64, layers=3, width=96, heads=2)
            network = (gpt if name == "gpt" else moe).build(200, settings, generator()).network
        theirs = own_initial(network)
    checked = 0
    for parameter_name, parameter in network.named_parameters():
        own = theirs[parameter_name].detach()
        if own.std() == 0 or math.isnan(own.std()):
            assert torch.equal(parameter, own), parameter_name
        elif own.numel() > 400:
            # Relative error of a standard deviation of n numbers: 1 / sqrt(2 n); 5 of them for the difference.
            allowed = 5 / math.sqrt(own.numel())
            assert float(parameter.detach().std() / own.std()) == pytest.approx(1, abs=allowed), (
                parameter_name
            )
            assert abs(float(parameter.detach().mean())) < 5 * float(own.std()) / math.sqrt(own.numel())
            checked += 1
    assert checked > 10


def feed_forward(block: nn.Module, expert: int, state: Tensor) -> Tensor:
    """What one routed expert makes of one token, written out."""
    gate, up = (block.experts.gate_up_proj[expert] @ state).chunk(2)
    return block.experts.down_proj[expert] @ (functional.silu(gate) * up)


@pytest.mark.parametrize("shared", [0, 2])
def test_every_token_goes_to_exactly_its_experts_with_weights_that_sum_to_one(shared: int) -> None:
    settings = Settings(
        sequence_length=12,
        layers=1,
        width=32,
        heads=2,
        experts=5,
        experts_per_token=2,
        shared_experts=shared,
    )
    model = moe.build(50, settings, generator())
    layer = model.network.layers[0]
    with torch.no_grad():
        # Nearly all tokens to one expert: where room were limited, some would be dropped.
        layer.block_sparse_moe.router.weight.mul_(50)
        layer.block_sparse_moe.router.weight[3] = layer.block_sparse_moe.router.weight.sum(dim=0)
    seen: dict[str, Tensor] = {}
    layer.post_attention_layernorm.register_forward_hook(lambda *call: seen.update(states=call[-1]))
    layer.block_sparse_moe.register_forward_hook(lambda *call: seen.update(routed=call[-1]))
    layer.block_sparse_moe.router.register_forward_hook(
        lambda *call: seen.update(scores=call[-1][0], weights=call[-1][1], experts=call[-1][2])
    )
    model(tokens(batch=4))

    chosen = functional.one_hot(seen["experts"], 5).sum(dim=1)
    assert chosen.shape == (4 * 12, 5)
    assert chosen.max() == 1, "no expert twice"
    assert chosen.sum() == 4 * 12 * 2, "no token dropped"
    torch.testing.assert_close(seen["weights"].sum(dim=-1), torch.ones(48))
    probabilities = seen["scores"].softmax(dim=-1).gather(1, seen["experts"])
    torch.testing.assert_close(seen["weights"], probabilities / probabilities.sum(dim=-1, keepdim=True))
    expected = [
        sum(
            weight * feed_forward(layer.block_sparse_moe, int(expert), state)
            for weight, expert in zip(weights, experts, strict=True)
        )
        for state, weights, experts in zip(
            seen["states"].flatten(0, 1), seen["weights"], seen["experts"], strict=True
        )
    ]
    torch.testing.assert_close(seen["routed"].flatten(0, 1), torch.stack(expected), rtol=1e-4, atol=1e-6)
    assert (layer.shared_mlp is None) == (shared == 0)


def test_experts_of_a_token_weigh_as_much_as_the_feed_forward_layer_of_gpt() -> None:
    width = 96
    dense = 8 * width**2
    for experts in (1, 2, 4, 6):
        assert 3 * width * moe.expert_units(width, experts) * experts == pytest.approx(dense, rel=0.13)


def test_penalty_is_that_of_training_alone_and_grows_with_unevenness() -> None:
    model = moe.build(50, TEXT, generator())
    even = model(tokens(batch=8))
    assert isinstance(even, Penalized)
    assert float(even.penalty.detach()) == pytest.approx(moe.BALANCE_WEIGHT, rel=0.05)
    with torch.no_grad():
        for layer in model.network.layers:
            layer.block_sparse_moe.router.weight.mul_(100)
    uneven = model(tokens(batch=8))
    assert uneven.penalty > 1.2 * even.penalty
    torch.testing.assert_close(model.eval()(tokens(batch=8)), uneven.outputs)


def test_balance_loss_is_the_equation_written_out() -> None:
    scores = torch.randn(30, 7, generator=generator())
    probabilities = scores.softmax(dim=-1)
    expected = 0.0
    for expert in range(7):
        share = sum(expert in row.topk(2).indices.tolist() for row in probabilities) / (30 * 2)
        expected += 7 * share * float(probabilities[:, expert].mean())
    assert float(moe.balance_loss(scores, experts_per_token=2)) == pytest.approx(expected, rel=1e-5)


def test_routers_learn_from_the_penalty() -> None:
    model = moe.build(50, TEXT, generator())
    model(tokens()).penalty.backward()
    for layer in model.network.layers:
        assert layer.block_sparse_moe.router.weight.grad.any()
