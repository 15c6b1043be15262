"""The teacher's stream of examples, its held-out set and its loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from surge_sweeps.errors import UnknownNameError
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.data_order import STRETCH, DataOrder
from surge_sweeps.training.models import mlp
from surge_sweeps.training.workloads.base import Settings
from surge_sweeps.training.workloads.teacher import (
    HELD_OUT,
    INPUTS,
    NOISE_STD,
    OUTPUTS,
    SPEC,
    TEACHER_WIDTH,
    Teacher,
    load,
)

TEACHER = load(Settings(**SPEC.models["mlp"]))


@pytest.fixture
def teacher() -> Teacher:
    return TEACHER


@pytest.fixture(scope="module")
def many() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets and noise of the first 100,000 examples of seed 3, in double precision."""
    inputs, targets = TEACHER.train_batch(DataOrder(None, 3).positions(0, 100_000))
    inputs, targets = inputs.double(), targets.double()
    return inputs, targets, targets - answers(TEACHER, inputs)


def answers(teacher: Teacher, inputs: torch.Tensor) -> torch.Tensor:
    """What the teacher says, spelled out."""
    units = torch.clamp(inputs @ teacher.hidden[:, :-1].T + teacher.hidden[:, -1], min=0)
    return units @ teacher.output[:, :-1].T + teacher.output[:, -1]


@settings(max_examples=40)
@given(start=st.integers(0, 2**62), cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_an_example_is_the_same_to_the_bit_in_any_batch(start: int, cuts: list[int]) -> None:
    whole_inputs, whole_targets = TEACHER.train_batch(torch.arange(start, start + sum(cuts)))
    done = 0
    for size in cuts:
        inputs, targets = TEACHER.train_batch(torch.arange(start + done, start + done + size))
        assert torch.equal(inputs, whole_inputs[done : done + size])
        assert torch.equal(targets, whole_targets[done : done + size])
        done += size


def test_indices_may_have_any_shape_and_layout(teacher: Teacher) -> None:
    flat_inputs, flat_targets = teacher.train_batch(torch.arange(24))
    for indices in (torch.arange(24).view(2, 3, 4), torch.arange(24).view(4, 6).T, torch.tensor(7)):
        inputs, targets = teacher.train_batch(indices)
        assert inputs.shape == (*indices.shape, INPUTS)
        assert targets.shape == (*indices.shape, OUTPUTS)
        assert torch.equal(inputs, flat_inputs[indices])
        assert torch.equal(targets, flat_targets[indices])
    assert teacher.train_batch(torch.empty(0, dtype=torch.int64))[0].shape == (0, INPUTS)


def test_threads_do_not_change_an_example(teacher: Teacher) -> None:
    alone = teacher.train_batch(torch.arange(20_000))
    torch.set_num_threads(2)
    try:
        together = teacher.train_batch(torch.arange(20_000))
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_the_stream_is_pinned(teacher: Teacher) -> None:
    """A change of these numbers is a change of the data: runs before and after it do not compare."""
    inputs, targets = teacher.train_batch(torch.tensor([0, 5 * STRETCH + 1]))
    known_inputs = [-1.1842, 1.2377, 0.8596, -0.4218, -0.1830, 0.3388]
    assert inputs[:, :3].flatten().tolist() == pytest.approx(known_inputs, abs=1e-4)
    known_targets = [-1.23775, 0.12289, 0.06981, 1.50439]
    assert targets[:, :2].flatten().tolist() == pytest.approx(known_targets, abs=1e-5)


def test_inputs_and_noise_are_standard_normal_and_independent(
    many: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    inputs, _, noise = many
    numbers = torch.cat([inputs, noise / NOISE_STD], dim=1)
    count = len(numbers)
    # Five standard errors throughout.
    assert numbers.mean(dim=0).abs().max() < 5 / math.sqrt(count)
    assert (numbers.square().mean(dim=0) - 1).abs().max() < 5 * math.sqrt(2 / count)
    assert numbers.pow(3).mean(dim=0).abs().max() < 5 * math.sqrt(15 / count)
    assert (numbers.pow(4).mean(dim=0) - 3).abs().max() < 5 * math.sqrt(96 / count)
    for moved in (1, 2, 64):
        between = numbers[:-moved].T @ numbers[moved:] / (count - moved)
        assert between.abs().max() < 5 / math.sqrt(count)
        # Squares: Box-Muller's pairs share a radius, which must not show.
        squares = (numbers.square() - 1) / math.sqrt(2)
        assert (squares[:-moved].T @ squares[moved:] / (count - moved)).abs().max() < 5 / math.sqrt(count)
    across = numbers.T @ numbers / count - torch.eye(INPUTS + OUTPUTS)
    assert across.abs().max() < 5 * math.sqrt(2 / count)
    squares = (numbers.square() - 1) / math.sqrt(2)
    assert (squares.T @ squares / count).fill_diagonal_(0).abs().max() < 5 / math.sqrt(count)


def test_the_distribution_is_normal_to_its_tails(
    many: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    inputs, _, noise = many
    numbers = torch.cat([inputs.flatten(), noise.flatten() / NOISE_STD])
    uniform = torch.special.ndtr(numbers)
    bins = torch.histc(uniform, bins=1000, min=0, max=1)
    expected = len(numbers) / 1000
    # Chi-square with 999 degrees of freedom: mean 999, standard deviation 44.7.
    assert abs(float((bins - expected).square().sum() / expected) - 999) < 5 * 44.7
    beyond = int((numbers.abs() > 4).sum())
    assert abs(beyond - len(numbers) * 6.334e-5) < 5 * math.sqrt(len(numbers) * 6.334e-5)


def test_seeds_see_streams_of_their_own(teacher: Teacher) -> None:
    first, second = (teacher.train_batch(DataOrder(None, seed).positions(0, 4096))[0] for seed in (0, 1))
    rows = {tuple(row) for row in torch.cat([first, second, teacher.eval_batch(0, HELD_OUT)[0]]).tolist()}
    assert len(rows) == 2 * 4096 + HELD_OUT
    product = first.double().T @ second.double() / 4096
    assert product.abs().max() < 5 / math.sqrt(4096)


def test_the_teachers_answers_have_mean_0_and_variance_1(
    teacher: Teacher, many: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    inputs, _, _ = many
    said = answers(teacher, inputs)
    # Scaled over a sample of its own, 16,384 examples: the error of the scale stays below a few percent.
    assert said.mean(dim=0).abs().max() < 0.05
    assert (said.var(dim=0) - 1).abs().max() < 0.1


def test_the_held_out_set_has_no_noise_and_its_loss_starts_at_a_half(teacher: Teacher) -> None:
    inputs, targets = teacher.eval_batch(0, HELD_OUT)
    assert teacher.eval_examples == len(inputs) == 2048
    assert torch.equal(targets, answers(teacher, inputs.double()).float())
    assert float(teacher.loss(torch.zeros_like(targets), targets)) == pytest.approx(0.5, abs=0.03)
    part_inputs, part_targets = teacher.eval_batch(100, 200)
    assert torch.equal(part_inputs, inputs[100:200])
    assert torch.equal(part_targets, targets[100:200])


@pytest.mark.parametrize("layers", [1, 3])
def test_a_student_can_hold_the_teacher(teacher: Teacher, layers: int) -> None:
    """So the floors are known: 0 for the evaluation loss, half the variance of the noise for the training loss."""
    student = mlp.build_regression(
        INPUTS, OUTPUTS, Settings(layers=layers, width=TEACHER_WIDTH), torch.Generator()
    )
    linear = [layer for layer in student.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in linear:
            layer.weight.zero_()
            layer.bias.zero_()
        linear[0].weight.copy_(teacher.hidden[:, :-1])
        linear[0].bias.copy_(teacher.hidden[:, -1])
        for layer in linear[1:-1]:
            layer.weight.copy_(torch.eye(TEACHER_WIDTH))
        linear[-1].weight.copy_(teacher.output[:, :-1])
        linear[-1].bias.copy_(teacher.output[:, -1])
        inputs, targets = teacher.eval_batch(0, HELD_OUT)
        assert float(teacher.loss(student(inputs), targets)) < 1e-10
        inputs, targets = teacher.train_batch(torch.arange(20_000))
        assert float(teacher.loss(student(inputs), targets)) == pytest.approx(NOISE_STD**2 / 2, rel=0.03)


def test_the_loss_is_the_log_likelihood_but_for_its_constant(teacher: Teacher) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(2, 5, OUTPUTS, generator=generator, dtype=torch.float64)
    nats = -torch.distributions.Normal(outputs, 1.0).log_prob(targets).mean()
    assert float(teacher.loss(outputs, targets)) == pytest.approx(float(nats) - math.log(2 * math.pi) / 2)


def test_students_come_from_the_generator_alone(teacher: Teacher) -> None:
    before = torch.random.get_rng_state()
    one, other = (teacher.build_model("mlp", torch.Generator().manual_seed(4)) for _ in range(2))
    load(Settings())
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert one(teacher.eval_batch(0, 3)[0]).shape == (3, OUTPUTS)
    with pytest.raises(UnknownNameError, match="Valid: mlp"):
        teacher.build_model("cnn", torch.Generator())


def test_training_and_evaluation_losses_differ_by_the_noise_alone() -> None:
    """Nothing is memorised: the training loss is that of examples never seen before."""
    config = TrialConfig(workload="teacher", optimizer="adam", lr=0.01, batch_size=64, max_steps=400)
    (record,) = train([("trial", config)])
    evals, trains = dict(record.metrics["eval/loss"]), dict(record.metrics["train/loss"])
    assert evals[0] == pytest.approx(0.5, abs=0.05)
    assert evals[400] < 0.03
    late = [step for step in trains if step > 200]
    gap = sum(trains[step] - evals[step] for step in late) / len(late)
    assert gap == pytest.approx(NOISE_STD**2 / 2, rel=0.1)


def test_many_students_train_at_once_as_they_do_alone() -> None:
    trials = [
        (
            f"{lr} {seed}",
            TrialConfig(workload="teacher", optimizer="sign", lr=lr, batch_size=8, seed=seed, max_steps=30),
        )
        for lr in (0.001, 0.01)
        for seed in (0, 1, 2)
    ]
    together, alone = train(trials, mode="ensemble"), train(trials, mode="loop")
    for one, other in zip(together, alone, strict=True):
        for metric in ("eval/loss", "train/loss"):
            assert [value for _, value in one.metrics[metric]] == pytest.approx(
                [value for _, value in other.metrics[metric]], rel=1e-3
            )
    assert len({record.metrics["train/loss"][0] for record in alone}) == 3
