"""Networks, one a file; `build` makes one with its parameters drawn from a generator alone."""
