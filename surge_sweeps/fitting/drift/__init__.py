"""How B_peak and B_crit move as the loss falls, and whether the theory that ties them holds."""
