"""What every engine promises, on a real SLURM."""

from __future__ import annotations

import pytest
from launch.launcher_contract import LauncherContract, MakeLauncher, Site
from slurm_cluster import SlurmCluster

from surge_sweeps.launch.slurm import SlurmLauncher

pytestmark = pytest.mark.slow


class TestSlurm(LauncherContract):
    @pytest.fixture
    def make_launcher(self, site: Site, slurm: SlurmCluster) -> MakeLauncher:
        return SlurmLauncher
