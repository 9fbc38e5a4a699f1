"""The offline engine: one model and one encrypted adapter in the caller's own process.

    config = TenSafeVLLMConfig(model_path=model, tssp_package_path=package, tenant="acme",
                               trusted_publishers=[publisher], keyring=home / "keys/pool.json")
    with TenSafeVLLMEngine(config) as engine:
        outputs = engine.generate(["Hello"], SamplingParams(max_tokens=16))

vLLM starts processes of its own, so a script needs an `if __name__ == "__main__":` guard.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput

from adapter_store.base_model import read_base_model
from adapter_store.keys.keyring import load_pool_keys
from adapter_store.keys.local import LocalKeyProvider
from adapter_store.tssp.format import Limits
from adapter_store.tssp.signing import PublisherPublicKey
from adapter_store.types import parse_tenant_id
from runtime.audit import AuditEvent, AuditSink, JsonlAuditLog, NoAudit
from runtime.broker.failures import FailedNames
from runtime.broker.memory import AdapterMemory
from runtime.broker.server import Broker
from runtime.engine_process import engine_environment, kv_cache_bytes
from runtime.errors import AdapterRefusedError, PoolConfigurationError
from runtime.local_package import LocalPackage, open_local_package
from runtime.settings import EngineOptions, PoolSettings
from runtime.worker_loading import PATH_PREFIX

ADAPTER_ID = 1
ERROR = "error"
"""vLLM's finish reason for a request that it could not finish."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TenSafeVLLMConfig:
    """What an offline engine is made of.

    With `tssp_package_path`, also `tenant`, `trusted_publishers` and `keyring` are needed: whose
    package it must be, who may have signed it, and the keys that open it.
    """

    model_path: Path | str
    tssp_package_path: Path | str | None = None
    tenant: str | None = None
    trusted_publishers: Sequence[PublisherPublicKey] = ()
    keyring: Path | str | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    max_model_len: int | None = None  # tokens
    max_lora_rank: int = 16
    dtype: str = "auto"
    gpu_memory_utilization: float = 0.9  # fraction
    kv_cache_gib: float | None = None
    enable_audit_logging: bool = True
    audit_log_path: Path | str = field(default=Path("tensafe-audit.jsonl"))
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True


class TenSafeVLLMEngine:
    """Generates with the model and, if the config names a package, its adapter.

    Must be closed, or used as a context manager: closing ends vLLM's processes and wipes the
    decrypted adapter. Create it in a thread that lives as long as it does.
    """

    def __init__(self, config: TenSafeVLLMConfig, *, audit: AuditSink | None = None) -> None:
        """Verify, decrypt and load; raises AdapterStoreError or PoolError, and leaves nothing."""
        self._audit = audit or _audit_of(config)
        self._lora: LoRARequest | None = None
        with ExitStack() as stack:
            settings = _settings(config, stack)
            package = _open_package(config) if config.tssp_package_path is not None else None
            self._llm = _start(config, settings, package, stack)
            stack.callback(self._shut_down)
            if package is not None:
                self._load(str(package.engine_name))
            self._resources = stack.pop_all()

    def generate(
        self,
        prompts: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        request_id: str | None = None,
    ) -> list[RequestOutput]:
        """Return vLLM's outputs for `prompts` (a text, token ids, or a list of either).

        Raises AdapterRefusedError if the adapter failed in use: there is no output without it.
        Nothing is generated unless the start of it could be recorded.
        """
        request_id = request_id or uuid.uuid4().hex
        adapter = "" if self._lora is None else self._lora.lora_name
        count = 1 if isinstance(prompts, str | Mapping) else len(prompts)
        self._audit.append(
            AuditEvent(
                kind="INFERENCE_START", adapter=adapter, request_id=request_id, prompts=count
            )
        )
        outcome = "aborted"
        outputs: list[RequestOutput] = []
        try:
            outputs = self._llm.generate(
                prompts, sampling_params, lora_request=self._lora, use_tqdm=False
            )
            outcome = "failed" if _any_failed(outputs) else "ok"
        finally:
            self._audit.append(_completion(adapter, request_id, count, outcome, outputs))
        if outcome != "ok":
            raise AdapterRefusedError("adapter_failed_in_step", kind="failed")
        return outputs

    def close(self) -> None:
        """End vLLM's processes and wipe the adapter; may be called again."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _load(self, engine_name: str) -> None:
        lora = LoRARequest(engine_name, ADAPTER_ID, f"{PATH_PREFIX}{engine_name}")
        self._llm.llm_engine.add_lora(lora)
        self._lora = lora
        self._audit.append(AuditEvent(kind="TSSP_PACKAGE_LOADED", adapter=engine_name))

    def _shut_down(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def _audit_of(config: TenSafeVLLMConfig) -> AuditSink:
    return JsonlAuditLog(Path(config.audit_log_path)) if config.enable_audit_logging else NoAudit()


def _settings(config: TenSafeVLLMConfig, stack: ExitStack) -> PoolSettings:
    scratch = Path(tempfile.mkdtemp(prefix="tensafe-offline-"))
    stack.callback(shutil.rmtree, scratch, ignore_errors=True)
    return PoolSettings(
        model_dir=Path(config.model_path),
        served_model_name=Path(config.model_path).name,
        pool_dir=scratch,
        keyring=Path(config.keyring or ""),
        object_store_url="memory:///",
        engine=EngineOptions(
            dtype=config.dtype,
            max_model_len=config.max_model_len,
            max_loras=1,
            max_cpu_loras=1,
            max_lora_rank=config.max_lora_rank,
            tensor_parallel_size=config.tensor_parallel_size,
            pipeline_parallel_size=config.pipeline_parallel_size,
            kv_cache_gib=config.kv_cache_gib,
            enable_prefix_caching=config.enable_prefix_caching,
            enable_chunked_prefill=config.enable_chunked_prefill,
        ),
    )


def _open_package(config: TenSafeVLLMConfig) -> LocalPackage:
    if config.tenant is None or config.keyring is None or not config.trusted_publishers:
        raise PoolConfigurationError(
            "expected tenant, trusted_publishers and keyring with a tssp_package_path"
        )
    return open_local_package(
        Path(config.tssp_package_path or ""),
        tenant=parse_tenant_id(config.tenant),
        trusted=config.trusted_publishers,
        keys=LocalKeyProvider(load_pool_keys(Path(config.keyring))),
        base_model=read_base_model(Path(config.model_path)),
        limits=Limits(max_rank=config.max_lora_rank),
    )


def _start(
    config: TenSafeVLLMConfig,
    settings: PoolSettings,
    package: LocalPackage | None,
    stack: ExitStack,
) -> LLM:
    arguments: dict[str, Any] = {
        "model": str(settings.model_dir),
        "dtype": config.dtype,
        "max_model_len": config.max_model_len,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "kv_cache_memory_bytes": kv_cache_bytes(settings.engine),
        "enable_prefix_caching": config.enable_prefix_caching,
        "enable_chunked_prefill": config.enable_chunked_prefill,
    }
    if package is not None:
        memory = AdapterMemory(
            package.loader.load,
            max_bytes=settings.adapter_memory_bytes,
            ttl_s=settings.adapter_memory_ttl_s,
        )
        broker = Broker(
            settings.broker_socket,
            memory,
            FailedNames(),
            idle_timeout_s=settings.broker_timeout_s,
        )
        stack.enter_context(broker)
        arguments |= {
            "enable_lora": True,
            "max_loras": 1,
            "max_cpu_loras": 1,
            "max_lora_rank": config.max_lora_rank,
        }
    environment = engine_environment(settings, os.environ, scratch=settings.pool_dir)
    # Children must run the plugin for this broker, not inherit what this process loaded before.
    environment["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    with _environment(environment):
        return LLM(**arguments)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set the environment while vLLM reads it and starts its processes, then put it back."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _any_failed(outputs: Sequence[RequestOutput]) -> bool:
    return any(part.finish_reason == ERROR for output in outputs for part in output.outputs)


def _completion(
    adapter: str, request_id: str, count: int, outcome: str, outputs: Sequence[RequestOutput]
) -> AuditEvent:
    return AuditEvent(
        kind="INFERENCE_COMPLETE",
        adapter=adapter,
        request_id=request_id,
        outcome=outcome,
        prompts=count,
        prompt_tokens=sum(len(output.prompt_token_ids or ()) for output in outputs),
        completion_tokens=sum(len(part.token_ids) for output in outputs for part in output.outputs),
    )
