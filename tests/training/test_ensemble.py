"""The ensemble trains what separate runs would train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from surge_sweeps.errors import TrainingError
from surge_sweeps.trackers.base import EVAL_LOSS, TRAIN_LOSS, RunRecord
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.data_order import DataOrder
from surge_sweeps.training.ensemble import MIN_REPLICAS, run_ensemble
from surge_sweeps.training.loop import run_loop
from surge_sweeps.training.optimizers import OPTIMIZERS
from surge_sweeps.training.stacked import StackedReplicas, can_stack
from surge_sweeps.training.start import starts
from surge_sweeps.training.workloads.digits import Digits

ELEMENTWISE = sorted(name for name, spec in OPTIMIZERS.items() if spec.elementwise)
LEARNING_RATES = {
    "sgd": 0.3,
    "momentum": 0.05,
    "nesterov": 0.05,
    "adagrad": 0.02,
    "adadelta": 1.0,
    "radam": 0.02,
}


def grid(optimizer: str, lrs: Sequence[float], seeds: Sequence[int], **settings: object) -> list[TrialConfig]:
    shared = {"batch_size": 16, "max_steps": 20, "optimizer": optimizer, **settings}
    return [TrialConfig.from_parameters({"lr": lr, "seed": seed, **shared}) for lr in lrs for seed in seeds]


def curve(record: RunRecord, name: str = EVAL_LOSS) -> np.ndarray:
    return np.array([value for _, value in record.metrics[name]])


def assert_same_curves(workload: Digits, configs: Sequence[TrialConfig], tolerance: float) -> None:
    assert len(configs) >= MIN_REPLICAS, "fewer would be handed to the plain loop"
    begin = starts(workload, configs)
    together = run_ensemble(workload, configs, begin)
    for config, trace in zip(configs, together, strict=True):
        alone = run_loop(workload, config, begin[config.seed]).run_record("")
        record = trace.run_record("")
        assert record.status == alone.status
        assert record.metrics["examples"] == alone.metrics["examples"]
        for name in (EVAL_LOSS, TRAIN_LOSS):
            np.testing.assert_allclose(curve(record, name), curve(alone, name), rtol=tolerance)


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
def test_every_elementwise_optimizer_trains_as_in_separate_runs(exact_digits: Digits, optimizer: str) -> None:
    lr = LEARNING_RATES.get(optimizer, 0.002)
    configs = grid(optimizer, [lr / 3, lr, 4 * lr], [0, 1])
    assert_same_curves(exact_digits, configs, 1e-8)


@pytest.mark.parametrize("optimizer", [n for n in ELEMENTWISE if "weight_decay" in OPTIMIZERS[n].defaults])
def test_weight_decay_is_scaled_by_each_replicas_learning_rate(exact_digits: Digits, optimizer: str) -> None:
    lr = LEARNING_RATES.get(optimizer, 0.002)
    configs = grid(optimizer, [lr / 3, 4 * lr], [0, 1, 2], weight_decay=0.3)
    assert_same_curves(exact_digits, configs, 1e-8)
    decayed = run_ensemble(exact_digits, configs, starts(exact_digits, configs))[-1]
    plain = TrialConfig.from_parameters({**configs[-1].record(), "weight_decay": 0.0})
    alone = run_loop(exact_digits, plain, starts(exact_digits, [plain])[plain.seed])
    assert abs(decayed.last_eval_loss - alone.last_eval_loss) > 1e-4


@pytest.mark.parametrize("optimizer", ["adamw", "momentum", "sign"])
def test_single_precision_agrees_over_a_few_steps(digits: Digits, optimizer: str) -> None:
    lr = LEARNING_RATES.get(optimizer, 0.002)
    assert_same_curves(digits, grid(optimizer, [lr, 4 * lr], [0, 1, 2], max_steps=5), 2e-4)


def test_the_convolution_network_trains_as_in_separate_runs(exact_digits: Digits) -> None:
    assert_same_curves(exact_digits, grid("adam", [0.001, 0.01], [0, 1, 2], model="cnn", max_steps=6), 1e-8)


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
def test_runs_that_reach_the_target_leave_and_the_rest_go_on_unchanged(
    exact_digits: Digits, optimizer: str
) -> None:
    # Spread out so that the stack shrinks several times and the last runs are handed to the plain loop.
    lr = LEARNING_RATES.get(optimizer, 0.002)
    lrs = [lr * factor for factor in (0.001, 0.5, 1, 2, 3)]
    configs = grid(optimizer, lrs, [0, 1], max_steps=30, target_loss=1.9)
    begin = starts(exact_digits, configs)
    ended = [trace.last_step for trace in run_ensemble(exact_digits, configs, begin)]
    assert len(set(ended)) > 2
    assert_same_curves(exact_digits, configs, 1e-8)


def test_runs_of_one_seed_share_their_examples_to_the_bit(digits: Digits) -> None:
    configs = grid("adamw", [0.001, 0.003, 0.01], [0, 1])
    models = [starts(digits, configs)[config.seed].model for config in configs]
    shared, own = (StackedReplicas(digits, models, configs) for _ in range(2))
    seed_of = torch.tensor([config.seed for config in configs])
    for step in range(3):
        indices = torch.stack(
            [order.batches(step, step + 1, 16)[0] for order in (DataOrder(1437, 0), DataOrder(1437, 1))]
        )
        each = torch.arange(len(configs))
        assert torch.equal(shared.step(indices, seed_of), own.step(indices[seed_of], each))
    assert shared.eval_losses(range(6)) == own.eval_losses(range(6))


def test_examples_are_made_once_a_seed_however_many_runs_see_them(digits: Digits) -> None:
    asked: list[tuple[int, ...]] = []

    class Counted(Digits):
        def train_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
            asked.append(tuple(indices.shape))
            return super().train_batch(indices)

    counted = Counted(**{field.name: getattr(digits, field.name) for field in fields(digits)})
    configs = grid("adamw", [0.001, 0.003, 0.01], [5, 9], max_steps=4)
    run_ensemble(counted, configs, starts(digits, [*configs, *grid("adamw", [0.001], [7])]))
    assert asked == 4 * [(2, 16)]


def test_capped_and_finished_are_told_apart() -> None:
    configs = grid("adamw", [1e-6, 0.01], [0, 1, 2, 3], max_steps=60, target_loss=1.0)
    records = train([(str(i), c) for i, c in enumerate(configs)])
    assert [record.status for record in records] == ["capped"] * 4 + ["finished"] * 4
    assert all(curve(record)[-1] <= 1.0 < curve(record)[-2] for record in records[4:])
    assert all(record.metrics[EVAL_LOSS][-1][0] == 60 for record in records[:4])


def test_a_diverged_replica_leaves_the_others_alone() -> None:
    calm = grid("sgd", [0.05], range(8))
    wild = grid("sgd", [1e20], [0])
    records = train([(str(i), c) for i, c in enumerate([*calm, *wild])])
    assert [record.status for record in records] == ["finished"] * 8 + ["diverged"]
    last = records[-1]
    steps = [step for step, _ in last.metrics[EVAL_LOSS]]
    value = curve(last)[-1]
    assert not math.isfinite(value) or value > 100 * curve(last)[0]
    assert last.summary["last_finite_step"] == steps[-2]
    alone = train([(str(i), c) for i, c in enumerate(calm)])
    for with_wild, without in zip(records, alone, strict=False):
        np.testing.assert_allclose(curve(with_wild), curve(without), rtol=1e-4)


def test_a_large_but_finite_loss_counts_as_diverged() -> None:
    (record,) = train([("t", *grid("sgd", [3000.0], [0]))])
    assert record.status == "diverged"
    assert record.summary["last_finite_step"] < record.metrics[EVAL_LOSS][-1][0]


def test_the_same_call_gives_the_same_bits() -> None:
    trials = [(str(i), c) for i, c in enumerate(grid("adamw", [0.001, 0.01], range(4), target_loss=1.5))]
    assert train(trials) == train(trials)


def test_a_run_does_not_depend_on_its_company() -> None:
    configs = grid("adam", [0.001, 0.003], range(6))
    trials = [(str(i), c) for i, c in enumerate(configs)]
    whole, part = train(trials), train(trials[3:9])
    for one, other in zip(whole[3:9], part, strict=True):
        assert one.trial_id == other.trial_id
        np.testing.assert_allclose(curve(one), curve(other), rtol=1e-4)


def test_every_way_of_training_returns_records_in_the_order_given() -> None:
    mixed = [
        *grid("adamw", [0.01], range(6)),
        *grid("muon", [0.01], [0]),
        *grid("adamw", [0.02], [0], batch_size=4),
    ]
    trials = [(f"trial-{i}", c) for i, c in enumerate(mixed[::-1])]
    done: list[int] = []
    records = train(trials, progress=done.append)
    assert [record.trial_id for record in records] == [name for name, _ in trials]
    assert [record.config["optimizer"] for record in records] == [c.optimizer for _, c in trials]
    assert done == sorted(done)
    assert done[-1] == sum(c.steps * c.batch_size for c in mixed)


@pytest.mark.parametrize("optimizer", ["muon", "adafactor"])
def test_optimizers_that_cannot_be_stacked_take_the_loop(optimizer: str) -> None:
    configs = grid(optimizer, [0.003, 0.01], range(3), max_steps=15)
    trials = [(str(i), c) for i, c in enumerate(configs)]
    records = train(trials)
    assert all(curve(record)[-1] < curve(record)[0] for record in records)
    assert records == train(trials, mode="loop")
    with pytest.raises(TrainingError, match="cannot train as an ensemble"):
        train(trials, mode="ensemble")


def test_models_with_state_or_random_numbers_are_not_stacked() -> None:
    assert not can_stack(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "adamw")
    assert not can_stack(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), "adamw")


def test_training_leaves_the_global_random_state_as_it_was() -> None:
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    train([(str(i), c) for i, c in enumerate(grid("adamw", [0.01], range(6), max_steps=3))])
    train([("loop", *grid("muon", [0.01], [0], model="cnn", max_steps=3))])
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_the_training_loss_is_the_mean_since_the_last_logged_point(digits: Digits) -> None:
    (record,) = train([("t", *grid("sgd", [0.1], [0], max_steps=200))])
    logged = dict(record.metrics[TRAIN_LOSS])
    every = run_loop(digits, grid("sgd", [0.1], [0], max_steps=200)[0],
                     starts(digits, grid("sgd", [0.1], [0]))[0], logged=range(201)).run_record("")  # fmt: skip
    single = dict(every.metrics[TRAIN_LOSS])
    steps = [step for step, _ in record.metrics[EVAL_LOSS]]
    assert steps[-2] < 199
    expected = np.mean([single[step] for step in range(steps[-2] + 1, 201)])
    assert logged[200] == pytest.approx(expected, rel=1e-4)
    assert 0 not in logged
