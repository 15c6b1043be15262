"""BatchNorm in an evaluation: the statistics of what is evaluated, and nothing remembered of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from surge_sweeps.training.batch_statistics import statistics_of_the_evaluated
from surge_sweeps.training.evaluation import Evaluator
from surge_sweeps.training.workloads.digits import Digits


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


def test_an_evaluation_does_not_depend_on_what_was_seen_before(digits: Digits) -> None:
    model = network()
    before = Evaluator(digits, model)()
    norm = model[1]
    assert isinstance(norm, nn.BatchNorm2d)
    for value in (norm.running_mean, norm.running_var):
        assert value is not None
        value.fill_(7.0)
    assert Evaluator(digits, model)() == before
    # It is the loss of the whole held-out set as one batch, and leaves nothing behind.
    with torch.no_grad():
        whole = float(digits.loss(network().train()(digits.eval_inputs), digits.eval_targets))
    assert before == pytest.approx(whole, rel=1e-6)
    assert norm.running_mean is not None
    assert bool((norm.running_mean == 7.0).all())
    assert norm.num_batches_tracked is not None
    assert int(norm.num_batches_tracked) == 0


def test_training_goes_on_as_it_was(digits: Digits) -> None:
    model = network().train()
    norm = model[1]
    Evaluator(digits, model)()
    assert (norm.training, norm.track_running_stats) == (True, True)
    with pytest.raises(RuntimeError), statistics_of_the_evaluated(model):
        raise RuntimeError("in the middle")
    assert (norm.training, norm.track_running_stats) == (True, True)


def test_a_model_without_it_is_left_alone() -> None:
    model = nn.Linear(2, 2).eval()
    with statistics_of_the_evaluated(model):
        assert not model.training
