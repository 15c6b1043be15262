"""Hand trials to an engine, and make sure that each ends once."""
