"""Weights & Biases: writing runs, reading projects and folders of offline runs, publishing results."""
