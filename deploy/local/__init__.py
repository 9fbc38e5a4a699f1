"""A whole deployment on one machine: the demo, tests and benchmarks start it from here."""
