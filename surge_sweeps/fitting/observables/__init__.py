"""What each run says about each target: groups, targets and the responses of the cells."""
