"""Shared by the training tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from surge_sweeps.training.workloads import load_workload
from surge_sweeps.training.workloads.digits import Digits


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Two threads that share a busy machine wait for each other hundreds of times longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> Digits:
    workload = load_workload("digits")
    assert isinstance(workload, Digits)
    return workload


@pytest.fixture(scope="session")
def exact_digits(digits: Digits) -> Digits:
    """The workload in double precision, where rounding cannot hide a wrong update."""
    return replace(digits, train_inputs=digits.train_inputs.double(), eval_inputs=digits.eval_inputs.double())
