"""The HTTP gateway: who may ask, for which adapter, under which limits, and the proof of it."""
