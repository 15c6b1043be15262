"""Data, order, log steps and settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from surge_sweeps.errors import SurgeError, TrainingError, UnknownNameError
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.data_order import DataOrder
from surge_sweeps.training.loop import each_batch
from surge_sweeps.training.optimizers import OPTIMIZERS
from surge_sweeps.training.trace import log_steps
from surge_sweeps.training.workloads import digits as digits_module
from surge_sweeps.training.workloads import load_workload
from surge_sweeps.training.workloads.digits import Digits

SETTINGS: dict[str, Any] = {"lr": 0.01, "batch_size": 8, "max_steps": 5}


@given(st.integers(0, 2**40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_batch_sizes_differ_only_in_grouping(seed: int, size: int, one: int, other: int) -> None:
    order = DataOrder(size, seed)
    total = one * other
    small = order.batches(0, other, one).flatten()
    large = torch.cat([order.batches(step, step + 1, other).flatten() for step in range(one)])
    assert torch.equal(small, large)
    whole = total // size * size
    epochs = small[:whole].view(-1, size).sort(dim=1).values
    assert torch.equal(epochs, torch.arange(size).expand_as(epochs))


def test_batches_made_in_blocks_are_the_stream() -> None:
    order = DataOrder(1437, 3)
    batches = torch.stack(list(each_batch([order], 5, 11, 30_000)))[:, 0]
    assert torch.equal(batches.flatten(), order.positions(5 * 30_000, 11 * 30_000))


def test_an_epoch_is_drawn_once_for_all_its_blocks_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    make = np.random.SeedSequence

    def counted(entropy: int, spawn_key: tuple[int, ...]) -> np.random.SeedSequence:
        drawn.append(spawn_key)
        return make(entropy, spawn_key=spawn_key)

    monkeypatch.setattr(np.random, "SeedSequence", counted)
    order = DataOrder(200_000, 3)
    batches = list(each_batch([order], 0, 8, 50_000))
    assert len(drawn) == len(set(drawn)) == 2
    # What was handed out is the caller's: writing to it does not change the order.
    kept = batches[-1].clone()
    order.positions(350_000, 400_000).zero_()
    assert torch.equal(order.positions(350_000, 400_000), kept[0])


def test_seeds_give_different_orders_and_different_models() -> None:
    assert not torch.equal(DataOrder(1437, 0).positions(0, 64), DataOrder(1437, 1).positions(0, 64))
    first, second = train([(str(s), TrialConfig(**SETTINGS, seed=s)) for s in (0, 1)])
    assert first.metrics["eval/loss"][0] != second.metrics["eval/loss"][0]


def test_the_split_is_fixed_and_disjoint(digits: Digits) -> None:
    assert digits.train_inputs.shape == (1437, 1, 8, 8)
    assert digits.eval_inputs.shape == (360, 1, 8, 8)
    assert (digits.train_inputs.min(), digits.train_inputs.max()) == (0, 1)
    # All 1,797 images are there once: the sum over pixels is that of the whole set.
    total = digits.train_inputs.double().sum() + digits.eval_inputs.double().sum()
    assert float(total) * 16 == 561_718
    assert load_workload("digits") is digits


def test_the_digits_are_scikit_learns() -> None:
    data = load_digits()
    images, targets = digits_module._images()
    assert np.array_equal(images, data.images)
    assert np.array_equal(targets, data.target)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_models_start_as_torch_would_start_them(digits: Digits, model: str) -> None:
    built = digits.build_model(model, torch.Generator().manual_seed(0))
    again = digits.build_model(model, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(built.parameters(), again.parameters(), strict=True))
    for layer in built.modules():
        if hasattr(layer, "weight"):
            bound = layer.weight[0].numel() ** -0.5
            assert layer.weight.abs().max() <= bound
            assert float(layer.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.2)


@given(st.integers(1, 10**6))
def test_log_steps_hold_both_ends_and_stay_few(max_steps: int) -> None:
    steps = log_steps(max_steps)
    assert steps[0] == 0
    assert steps[-1] == max_steps
    assert list(steps) == sorted(set(steps))
    assert len(steps) <= 150
    assert all(type(step) is int for step in steps)
    if max_steps <= 50:
        assert steps == tuple(range(max_steps + 1))


@given(st.integers(0, 10**6), st.integers(2, 200))
def test_log_steps_are_no_more_than_asked_for(max_steps: int, points: int) -> None:
    steps = log_steps(max_steps, points)
    assert (steps[0], steps[-1]) == (0, max_steps)
    assert list(steps) == sorted(set(steps))
    assert len(steps) <= points


def test_few_points_change_no_loss_of_those_that_stay() -> None:
    config = TrialConfig(lr=0.01, batch_size=8, max_steps=40)
    whole, few = train([("a", config), ("b", replace(config, log_points=6))])
    losses = dict(few.metrics["eval/loss"])
    assert len(losses) == 6
    assert losses.items() <= dict(whole.metrics["eval/loss"]).items()
    assert few.config["log_points"] == 6
    with pytest.raises(TrainingError, match="log_points"):
        replace(config, log_points=1)


def test_the_budget_ends_at_whichever_limit_comes_first() -> None:
    assert TrialConfig(lr=0.1, batch_size=10, max_steps=7, max_examples=1000).steps == 7
    assert TrialConfig(lr=0.1, batch_size=10, max_steps=7, max_examples=31).steps == 4
    (record,) = train([("t", TrialConfig(lr=0.01, batch_size=3000, max_examples=6000))])
    assert record.metrics["examples"][-1] == (2, 6000.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": "0.1"}, "lr is the string '0.1'"),
        ({"lr": "fast"}, "not a number"),
        ({"batch_size": "8"}, "batch_size is the string"),
        ({"batch_size": 8.5}, "not a whole number"),
        ({"batch_size": True}, "not a whole number"),
        ({"lr": 0}, "lr is 0"),
        ({"lr": -1.0}, "above 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"batch_size": 0}, "at least 1"),
        ({"seed": -1}, "at least 0"),
        ({"beta1": 1.0}, "below 1"),
        ({"max_steps": None}, "no end"),
        ({"lr": None}, "lr is None"),
        ({"optimizer": "sgd", "beta1": 0.9}, "takes no beta1. It takes: lr, weight_decay"),
        ({"optimizer": "sign", "momentum": 0.9}, "takes no momentum. It takes: lr, eps"),
        ({"workload": 3}, "not a name"),
    ],
)
def test_settings_that_make_no_run_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TrialConfig.from_parameters({**SETTINGS, **change})


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({"learning_rate": 0.1}, "lr, max_examples"),
        ({"optimizer": "adm"}, "adafactor, adagrad, adalomo, adam"),
        ({"workload": "mnist"}, "digits, images, teacher, text"),
        ({"model": "gpt"}, "cnn, mlp"),
    ],
)
def test_unknown_names_list_the_valid_ones(change: dict[str, object], valid: str) -> None:
    with pytest.raises(UnknownNameError, match=valid):
        TrialConfig.from_parameters({**SETTINGS, **change})


def test_an_unknown_mode_lists_the_valid_ones() -> None:
    with pytest.raises(UnknownNameError, match="auto, ensemble, loop"):
        train([("t", TrialConfig(**SETTINGS))], mode="fast")  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_the_record_holds_what_the_optimizer_uses_and_makes_the_same_run(optimizer: str) -> None:
    config = TrialConfig(**SETTINGS, optimizer=optimizer)
    record = config.record()
    assert set(OPTIMIZERS[optimizer].defaults) <= set(record)
    assert {type(value) for value in record.values()} <= {str, int, float}
    assert TrialConfig.from_parameters(record) == config.resolved()
    unused = {"beta1", "beta2", "eps", "momentum", "weight_decay"} - set(OPTIMIZERS[optimizer].defaults)
    assert not unused & set(record)


def test_bad_settings_are_errors_a_user_can_read() -> None:
    with pytest.raises(SurgeError, match="batch_size is missing"):
        TrialConfig.from_parameters({"lr": 0.1})
