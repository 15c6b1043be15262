"""What workloads are trained on: known data sets, how they are fetched, and readers that keep what they read."""
