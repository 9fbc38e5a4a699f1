"""From a failed adapter to an error for exactly its requests: worker output, then scheduler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.outputs import AsyncModelRunnerOutput, ModelRunnerOutput
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from runtime.patching import replace

FAILED_ADAPTERS = "tensafe_failed_adapters"
"""Attribute of ModelRunnerOutput that carries the failed ids from worker to scheduler."""


def install_step_failures(failed_in_this_step: Callable[[], frozenset[int]]) -> None:
    """Have workers report failed adapters, and the scheduler finish their requests as errors."""

    def make_sample(original: Callable[..., Any]) -> Callable[..., Any]:
        def sample_tokens(runner: GPUModelRunner, grammar_output: Any) -> Any:
            return _with_failures(original(runner, grammar_output), failed_in_this_step())

        return sample_tokens

    replace(GPUModelRunner, "sample_tokens", make_sample)
    replace(Scheduler, "update_from_output", _make_update)


class _AsyncOutputWithFailures(AsyncModelRunnerOutput):  # type: ignore[misc]
    """The same for engines that fetch their output while the next step already runs."""

    def __init__(self, output: AsyncModelRunnerOutput, failed: frozenset[int]) -> None:
        self._output = output
        self._failed = failed

    def get_output(self) -> ModelRunnerOutput:
        return _with_failures(self._output.get_output(), self._failed)


def _with_failures(output: Any, failed: frozenset[int]) -> Any:
    if not failed:
        return output
    if isinstance(output, AsyncModelRunnerOutput):
        return _AsyncOutputWithFailures(output, failed)
    # An output without rows may be a constant that all steps share.
    if isinstance(output, ModelRunnerOutput) and output.req_ids:
        setattr(output, FAILED_ADAPTERS, failed)
    return output


def _make_update(original: Callable[..., Any]) -> Callable[..., Any]:
    def update_from_output(
        scheduler: Scheduler,
        scheduler_output: SchedulerOutput,
        model_runner_output: ModelRunnerOutput,
    ) -> Any:
        failed: frozenset[int] = getattr(model_runner_output, FAILED_ADAPTERS, frozenset())
        if failed:
            _discard_rows(scheduler, scheduler_output, model_runner_output, failed)
        return original(scheduler, scheduler_output, model_runner_output)

    return update_from_output


def _discard_rows(
    scheduler: Scheduler,
    scheduler_output: SchedulerOutput,
    output: ModelRunnerOutput,
    failed: frozenset[int],
) -> None:
    """Empty the rows of failed adapters, and have the scheduler end them as it ends its own errors.

    `grammar_compile_error_reqs` is where the scheduler itself collects requests that it then
    finishes with an error at the end of `update_from_output`.
    """
    for request_id in scheduler_output.num_scheduled_tokens:
        request = scheduler.requests.get(request_id)
        if request is None or request.lora_request is None:
            continue
        if request.lora_request.lora_int_id not in failed:
            continue
        if output.sampled_token_ids:
            output.sampled_token_ids[output.req_id_to_index[request_id]] = []
        output.prompt_logprobs_dict.pop(request_id, None)
        output.prompt_token_id_logprobs_dict.pop(request_id, None)
        scheduler.grammar_compile_error_reqs.add(request_id)
