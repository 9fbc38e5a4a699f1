"""Processes of a CPU engine that wait for each other, made to nap instead of spinning.

vLLM's processes poll their shared memory for a second before they wait for a notification. On a
GPU that costs a core nobody needs; on a CPU it is the core that the model, the API server or the
gateway should have. The second itself stays: notifications may be dropped, and a reader that
relied on them alone was seen to sleep for 50 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

from runtime.patching import replace

SPIN_S = 0.0002
"""A message that is on its way is worth this long a spin."""
NAP_S = 0.0001


def install_idle_waiting() -> None:
    """Have readers of shared memory give their core away soon after their last message."""

    def make_wait(original: Callable[..., None]) -> Callable[..., None]:
        def wait(condition: SpinCondition, timeout_ms: int | None = None) -> None:
            waited_s = time.monotonic() - condition.last_read
            if SPIN_S < waited_s < condition.busy_loop_s:
                time.sleep(NAP_S)
            else:
                original(condition, timeout_ms)

        return wait

    replace(SpinCondition, "wait", make_wait)
