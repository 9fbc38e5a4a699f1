"""Imports vLLM before the tests do: its dependencies warn, and here warnings are errors."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import vllm.entrypoints.openai.models.serving
    import vllm.lora.worker_manager
    import vllm.v1.core.sched.async_scheduler
    import vllm.v1.worker.gpu_model_runner  # noqa: F401
