"""How a run goes: on from its target, by a schedule, with a penalty apart, on data without an end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from kept_run import KeptRun, StopAfter
from torch import Tensor, nn

from surge_sweeps.errors import SurgeError, TrainingError
from surge_sweeps.trackers.base import BALANCE_LOSS, EVAL_LOSS, EXAMPLES, TRAIN_LOSS, RunRecord
from surge_sweeps.training import TrialConfig, train
from surge_sweeps.training.data_order import STRETCH, DataOrder
from surge_sweeps.training.ensemble import run_ensemble
from surge_sweeps.training.loop import run_loop
from surge_sweeps.training.micro_batches import cut_batch
from surge_sweeps.training.optimizers import build_optimizer
from surge_sweeps.training.preemption import Preempted, StopRequest
from surge_sweeps.training.resume import train_resumable
from surge_sweeps.training.session import Setup, open_session
from surge_sweeps.training.start import starts
from surge_sweeps.training.steps import Steps
from surge_sweeps.training.trace import Trace
from surge_sweeps.training.workloads import digits as digits_module
from surge_sweeps.training.workloads.base import Penalized
from surge_sweeps.training.workloads.digits import Digits


def config(**changes: object) -> TrialConfig:
    shared: dict[str, object] = {"lr": 0.003, "batch_size": 32, "optimizer": "sign", "max_steps": 400}
    return TrialConfig.from_parameters(shared | changes)


def trained(**changes: object) -> RunRecord:
    return train([("t", config(**changes))], mode="loop")[0]


def steps_of(record: RunRecord) -> list[int]:
    return [step for step, _ in record.metrics[EVAL_LOSS]]


def test_a_run_goes_on_from_its_target_for_so_many_steps() -> None:
    short, long = trained(target_loss=0.8), trained(target_loss=0.8, steps_after_target=10)
    crossing = steps_of(short)[-1]
    # Every one of the few steps is logged, and nothing before them changes.
    assert steps_of(long) == [*steps_of(short), *range(crossing + 1, crossing + 11)]
    assert long.metrics[EVAL_LOSS][: len(steps_of(short))] == short.metrics[EVAL_LOSS]
    assert long.status == "finished"
    assert long.config["steps_after_target"] == 10


def test_a_budget_that_ends_before_is_capped() -> None:
    crossing = steps_of(trained(target_loss=0.8))[-1]
    # The points that are logged follow the budget, and so may the crossing.
    cut = trained(target_loss=0.8, steps_after_target=500)
    assert (cut.status, steps_of(cut)[-1]) == ("capped", 400)
    exact = trained(target_loss=0.8, steps_after_target=400 - crossing)
    assert (exact.status, steps_of(exact)[-1]) == ("finished", 400)
    assert trained(target_loss=1e-9, steps_after_target=5).status == "capped"


def assert_alike(workload: Digits, configs: list[TrialConfig]) -> None:
    begin = starts(workload, configs)
    for one, trace in zip(configs, run_ensemble(workload, configs, begin), strict=True):
        together, alone = trace.run_record(""), run_loop(workload, one, begin[one.seed]).run_record("")
        assert together.status == alone.status
        assert together.metrics[EXAMPLES] == alone.metrics[EXAMPLES]
        for name in (EVAL_LOSS, TRAIN_LOSS):
            values = [[value for _, value in record.metrics[name]] for record in (together, alone)]
            np.testing.assert_allclose(*values, rtol=1e-8)


def test_an_ensemble_follows_each_run_behind_its_own_target(exact_digits: Digits) -> None:
    # They cross at different steps, some never; the last ones are handed to the plain loop between two of their points.
    lrs = (0.0001, 0.001, 0.002, 0.003, 0.005, 0.008)
    shared = {"target_loss": 1.2, "steps_after_target": 70, "max_steps": 160}
    assert_alike(exact_digits, [config(lr=lr, seed=seed, **shared) for lr in lrs for seed in (0, 1)])


@pytest.mark.parametrize(
    "shape", [{"schedule": "cosine"}, {"schedule": "linear", "warmup_steps": 4}, {"warmup_examples": 200}]
)
def test_an_ensemble_follows_the_schedule(exact_digits: Digits, shape: dict[str, object]) -> None:
    assert_alike(
        exact_digits,
        [config(lr=lr, seed=s, max_steps=20, **shape) for lr in (0.001, 0.004) for s in (0, 1, 2)],
    )


def test_each_update_takes_the_share_of_its_step(exact_digits: Digits) -> None:
    shaped = config(schedule="linear", warmup_steps=3, max_steps=8, optimizer="sgd", lr=0.1)
    (start,) = starts(exact_digits, [shaped]).values()
    found = run_loop(exact_digits, shaped, start)
    model = exact_digits.build_model("mlp", torch.Generator())
    model.load_state_dict(start.model.state_dict())
    order, losses = DataOrder(exact_digits.train_examples, 0), []
    for step in range(8):
        for group in (optimizer := torch.optim.SGD(model.parameters(), lr=0.1)).param_groups:
            group["lr"] = 0.1 * shaped.lr_multiplier(step)
        inputs, targets = exact_digits.train_batch(order.batches(step, step + 1, 32)[0])
        optimizer.zero_grad()
        exact_digits.loss(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            losses.append(
                float(exact_digits.loss(model(exact_digits.eval_inputs), exact_digits.eval_targets))
            )
    assert [loss for _, loss, *_ in found.points()][1:] == pytest.approx(losses, rel=1e-12)
    assert shaped.lr_multiplier(0) == pytest.approx(1 / 3)


def test_what_follows_the_batch_size_is_used_and_recorded_as_it_was_given() -> None:
    half_life = config(optimizer="adamw", beta2_half_life_examples=3200.0)
    assert "beta2" not in half_life.record()
    assert TrialConfig.from_parameters(half_life.record()) == half_life.resolved()
    assert half_life.summary() == {"used_beta2": pytest.approx(0.5**0.01)}
    # Its average is updated at every tenth step alone.
    sophia = config(optimizer="sophia", beta2_half_life_examples=3200.0)
    assert sophia.summary() == {"used_beta2": pytest.approx(0.5**0.1)}
    decay = config(optimizer="adamw", weight_decay=0.1, weight_decay_batch_size=8)
    assert decay.hyper_parameters()["weight_decay"] == pytest.approx(0.4)
    record = trained(optimizer="adamw", weight_decay=0.1, weight_decay_batch_size=8, max_steps=2)
    assert record.summary["used_weight_decay"] == pytest.approx(0.4)
    assert (
        record.metrics[EVAL_LOSS]
        == trained(optimizer="adamw", weight_decay=0.4, max_steps=2).metrics[EVAL_LOSS]
    )


class _Weighed(nn.Module):
    """A network that is fined for the size of its outputs, and counts how often it was asked in training."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor | Penalized:
        outputs: Tensor = self.inner(inputs)
        return Penalized(outputs, 0.01 * outputs.square().mean()) if self.training else outputs


@pytest.fixture
def weighed(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setitem(digits_module.MODELS, "weighed", lambda: _Weighed(digits_module._mlp()))
    monkeypatch.setitem(digits_module.SPEC.models, "weighed", {})
    return "weighed"


def test_a_penalty_is_trained_on_and_logged_apart(exact_digits: Digits, weighed: str) -> None:
    fined = config(model=weighed, optimizer="sgd", lr=0.5, max_steps=3)
    (start,) = starts(exact_digits, [fined]).values()
    record = run_loop(exact_digits, fined, start).run_record("")
    model = exact_digits.build_model("mlp", torch.Generator())
    model.load_state_dict({name.removeprefix("inner."): v for name, v in start.model.state_dict().items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    order = DataOrder(exact_digits.train_examples, 0)
    for step in range(3):
        inputs, targets = exact_digits.train_batch(order.batches(step, step + 1, 32)[0])
        outputs = model(inputs)
        loss, penalty = exact_digits.loss(outputs, targets), 0.01 * outputs.square().mean()
        assert record.metrics[TRAIN_LOSS][step] == (step + 1, pytest.approx(loss.item(), rel=1e-9))
        assert record.metrics[BALANCE_LOSS][step] == (step + 1, pytest.approx(penalty.item(), rel=1e-9))
        optimizer.zero_grad()
        (loss + penalty).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        plain = float(exact_digits.loss(model(exact_digits.eval_inputs), exact_digits.eval_targets))
    assert record.metrics[EVAL_LOSS][-1][1] == pytest.approx(plain, rel=1e-9)


def test_a_penalty_is_that_of_the_micro_batches(exact_digits: Digits, weighed: str) -> None:
    indices = DataOrder(exact_digits.train_examples, 1).batches(0, 1, 32)[0]
    found = []
    for cut in (None, cut_batch(32, 4)):
        model = exact_digits.build_model(weighed, torch.Generator().manual_seed(0))
        found.append(Steps(exact_digits, model, build_optimizer("sgd", model, 0.1, {}), cut).step(indices))
    assert found[0].shape == (2,)
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_a_run_with_a_penalty_goes_on_with_the_same_bits(weighed: str, tmp_path: Path) -> None:
    fined, whole, stopped = config(model=weighed, max_steps=120), KeptRun(), KeptRun()
    train_resumable(fined, whole.open(), tmp_path / "whole.pt", StopRequest())
    stop = StopAfter(87)  # between two points
    with pytest.raises(Preempted):
        train_resumable(fined, stopped.open(), tmp_path / "x.pt", stop)
    train_resumable(fined, stopped.open(), tmp_path / "x.pt", StopRequest())
    assert stopped.rows == whole.rows
    assert BALANCE_LOSS in whole.rows[120]


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURGE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path / "first"))
    for folder, words in (("first", "to be or not to be, "), ("second", "that is the question ")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "t.txt").write_text(words * 300)
    text = config(
        workload="text",
        model="gpt",
        data="t.txt",
        layers=1,
        width=8,
        heads=1,
        sequence_length=8,
        max_steps=6,
        lr=0.01,
    )
    stopped = KeptRun()
    with pytest.raises(Preempted):
        train_resumable(text, stopped.open(), tmp_path / "x.pt", StopAfter(3))
    (first,) = train([("t", text)])
    monkeypatch.setenv("SURGE_DATA_DIR", str(tmp_path / "second"))
    with pytest.raises(TrainingError, match="state of a run with other settings"):
        train_resumable(text, stopped.open(), tmp_path / "x.pt", StopRequest())
    (second,) = train([("t", text)])
    assert first.config["data_digest"] != second.config["data_digest"]
    assert {**first.config, "data_digest": ""} == {**second.config, "data_digest": ""}


def test_seeds_of_an_endless_data_set_share_no_example() -> None:
    first, second = DataOrder(None, 0), DataOrder(None, 1)
    assert first.batches(2, 4, 3).tolist() == [[6, 7, 8], [9, 10, 11]]
    assert second.positions(0, 2).tolist() == [STRETCH, STRETCH + 1]
    with pytest.raises(TrainingError, match=r"Give one below 4,194,304"):
        DataOrder(None, 2**22)
    assert DataOrder(None, 2**22 - 1).positions(0, 1).item() < 2**63


def test_a_batch_beyond_the_data_set_says_how_often_it_is_seen() -> None:
    said: list[str] = []
    open_session(config(batch_size=2874, max_steps=3), Setup(), said.append)
    assert said == [
        "a batch of 2,874 examples is 2.0 times the data set of 1,437; the run sees it 6.0 times."
    ]


def test_an_optimizer_that_cannot_accumulate_is_refused_before_it_trains() -> None:
    with pytest.raises(TrainingError, match="'sophia' needs the whole batch at once"):
        open_session(config(optimizer="sophia"), Setup(micro_batch_size=8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps_after_target": 5}, "without a target_loss"),
        ({"width": 8}, "'mlp' of 'digits' takes no width. It takes no such settings: leave it out."),
        ({"workload": "images"}, "'images' needs data"),
        ({"workload": "text", "data": "x"}, r"'text' needs a model. Give model: gpt or moe."),
        ({"workload": "text", "model": "gpt", "data": "x", "experts": 4}, "'gpt' of 'text' takes no experts"),
        (
            {"workload": "text", "model": "gpt", "data": "x", "layers": 0},
            "layers is 0. It must be at least 1",
        ),
        ({"optimizer": "adam", "beta2": 0.9, "beta2_half_life_examples": 9}, "beta2 and a half-life"),
        ({"optimizer": "sgd", "beta2_half_life_examples": 9}, "beta2"),
        ({"schedule": "wavy"}, "unknown schedule 'wavy'"),
        ({"warmup_steps": 2, "warmup_examples": 64}, "warmup"),
    ],
)
def test_settings_that_make_no_run_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(SurgeError, match=message) as caught:
        config(**change)
    assert caught.value.hint


def test_a_trace_logs_tokens_where_examples_are_sequences() -> None:
    text = config(workload="text", model="gpt", data="x", sequence_length=16, max_steps=2)
    trace = Trace(text, 3.0)
    trace.add(1, 2.5, 2.7)
    assert trace.run_record("").metrics["tokens"] == [(0, 0.0), (1, 512.0)]
