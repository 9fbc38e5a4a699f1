"""The way to the engine and back: forwarding, streaming, and giving up."""
