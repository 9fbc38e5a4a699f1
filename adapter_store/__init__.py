"""Signed, encrypted LoRA adapters at rest: packages, keys and objects."""
