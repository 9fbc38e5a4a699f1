"""The demo: the whole stack on this machine, with nothing mocked."""
