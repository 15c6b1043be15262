"""A real SLURM for the tests that ask for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from slurm_cluster import SlurmCluster, slurm_missing


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[SlurmCluster]:
    """A real SLURM for the whole session; it starts in about a second."""
    if why := slurm_missing():
        pytest.skip(why)
    with SlurmCluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(slurm_session: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> SlurmCluster:
    """The session's SLURM, which every program of SLURM that the test starts finds."""
    for name, value in slurm_session.environment.items():
        monkeypatch.setenv(name, value)
    return slurm_session
