"""A simulated NATS: the whole of it in virtual time, for histories that a seed repeats."""
