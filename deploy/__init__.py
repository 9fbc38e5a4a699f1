"""Running the whole stack: the local stack, the demo, and what a cluster takes."""
