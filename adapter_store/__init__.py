"""Signed, encrypted LoRA adapters at rest: packages, keys and objects, used by gateway and runtime."""
