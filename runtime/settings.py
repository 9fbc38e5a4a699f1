"""Everything that a pool can be told, as values checked once at its start."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import PoolConfigurationError

ENGINE_SOCKET = "engine.sock"
CONTROL_SOCKET = "control.sock"
BROKER_SOCKET = "broker.sock"

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM 0.32 makes room for (vllm.config.lora.MaxLoRARanks)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """The options of vLLM that a pool passes on."""

    dtype: str = "auto"
    max_model_len: int | None = None  # tokens
    max_num_seqs: int = 64
    max_num_batched_tokens: int | None = None
    max_loras: int = 8  # adapters in one batch
    max_cpu_loras: int = 64  # adapters kept ready in each worker
    max_lora_rank: int = 16
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_memory_utilization: float | None = None  # fraction
    kv_cache_gib: float | None = None
    reserved_cpus: int = 1  # of a CPU engine: left to the API server, the gateway, the system
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    max_num_queued_reqs: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_lora_rank not in LORA_RANKS:
            raise PoolConfigurationError(
                f"expected a max LoRA rank of {', '.join(map(str, LORA_RANKS))},"
                f" got {self.max_lora_rank}"
            )
        if self.max_cpu_loras < self.max_loras:
            raise PoolConfigurationError(
                f"expected max CPU LoRAs of at least max LoRAs ({self.max_loras}),"
                f" got {self.max_cpu_loras}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class LivenessOptions:
    """When an engine counts as started, as healthy, and as wedged."""

    start_timeout_s: float = 600.0
    probe_interval_s: float = 5.0
    probe_timeout_s: float = 10.0
    failures_until_restart: int = 3
    restart_delay_s: float = 1.0
    max_restart_delay_s: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """One pool: a model, where its keys and packages are, and where its sockets go."""

    model_dir: Path
    served_model_name: str
    pool_dir: Path
    keyring: Path
    object_store_url: str
    engine: EngineOptions = field(default_factory=EngineOptions)
    liveness: LivenessOptions = field(default_factory=LivenessOptions)
    adapter_memory_bytes: int = 4 << 30
    adapter_memory_ttl_s: float = 600.0  # a revoked record is noticed no later than this
    broker_timeout_s: float = 60.0

    @property
    def engine_socket(self) -> Path:
        return self.pool_dir / ENGINE_SOCKET

    @property
    def control_socket(self) -> Path:
        return self.pool_dir / CONTROL_SOCKET

    @property
    def broker_socket(self) -> Path:
        return self.pool_dir / BROKER_SOCKET
