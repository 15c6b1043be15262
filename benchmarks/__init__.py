"""Measurements: speed as ratios in one run, and whether the fit finds known truths."""
