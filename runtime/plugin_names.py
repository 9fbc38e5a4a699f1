"""Names that the agent and the plugins in vLLM's processes agree on; importing it costs nothing."""

from __future__ import annotations

GENERAL_PLUGIN = "tensafe_runtime"
ENDPOINT_PLUGIN = "tensafe_admin"

BROKER_SOCKET = "TENSAFE_BROKER_SOCKET"
BROKER_TIMEOUT_S = "TENSAFE_BROKER_TIMEOUT_S"
CONFIRM_LOADS = "TENSAFE_CONFIRM_LOADS"
"""How the agent tells the engine's processes, which vLLM starts, where the broker is."""

EVICT_PATH = "/v1/tensafe/evict"
STATE_PATH = "/v1/tensafe/state"
"""Our routes in vLLM's API server."""
