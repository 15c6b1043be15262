"""The candidate laws fitted to the optimal learning rates."""
