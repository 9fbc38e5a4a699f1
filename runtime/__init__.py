"""The base-model pool: vLLM with plugins that load encrypted adapters without touching a disk."""
