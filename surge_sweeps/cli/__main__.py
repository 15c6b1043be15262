"""`python -m surge_sweeps.cli` is `surge-sweep`, for environments whose scripts are not on the path."""

from surge_sweeps.cli.entry import sweep_main

sweep_main()
