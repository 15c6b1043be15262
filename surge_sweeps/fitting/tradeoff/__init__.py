"""Steps against examples: S_min, E_min and the critical batch size."""
