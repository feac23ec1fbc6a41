"""One run's state, and every judgement of it: pure, without I/O."""
