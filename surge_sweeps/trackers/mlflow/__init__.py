"""MLflow: writing sweeps into experiments, reading experiments as loss curves."""
