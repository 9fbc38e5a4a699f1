"""The entry point that vLLM calls in each of its processes before anything else."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

from vllm.platforms import current_platform

from runtime.base_rows import install_base_rows
from runtime.broker.client import BrokerClient
from runtime.engine_contract import check_engine_contract
from runtime.idle_waiting import install_idle_waiting
from runtime.lora_resolver import install_resolver
from runtime.plugin_names import BROKER_SOCKET, BROKER_TIMEOUT_S, CONFIRM_LOADS
from runtime.processes import die_with_parent, forked_children_die_with_this_process
from runtime.scored_prompts import install_scored_prompts
from runtime.step_failures import install_step_failures
from runtime.worker_loading import AdapterLoading


def register() -> None:
    """Install the hooks in this process and in those that it forks; safe to call again.

    Raises EngineContractError, which ends the engine, when vLLM is not what it should be.
    Without a broker this process is not one of a pool: vLLM stays as it is.
    """
    socket_path = os.environ.get(BROKER_SOCKET)
    if socket_path is None:
        return
    check_engine_contract()
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)
        forked_children_die_with_this_process()
    broker = BrokerClient(Path(socket_path), timeout_s=float(os.environ[BROKER_TIMEOUT_S]))
    loading = AdapterLoading(broker, confirm_loads=os.environ.get(CONFIRM_LOADS) == "1")
    loading.install()
    install_base_rows()
    if current_platform.is_cpu():
        install_idle_waiting()
    install_scored_prompts()
    install_step_failures(loading.failed_in_this_step)
    install_resolver(broker)
