"""The small parts of a pool: settings, sockets, processes, the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from adapter_store.keys.keyring import create_keyrings
from runtime import plugin_names
from runtime.cli import app
from runtime.engine_process import (
    cpu_shares,
    engine_arguments,
    engine_environment,
    scratch_directory,
    sweep,
)
from runtime.errors import PoolConfigurationError
from runtime.model_source import locate_model
from runtime.patching import replace
from runtime.settings import EngineOptions, PoolSettings
from runtime.sockets import MAX_SOCKET_PATH_BYTES, checked_socket_path, listen

REPOSITORY = Path(__file__).parents[3]


def settings(pool_dir: Path, **engine: object) -> PoolSettings:
    return PoolSettings(
        model_dir=Path("/models/tiny"),
        served_model_name="tiny",
        pool_dir=pool_dir,
        keyring=pool_dir / "keys" / "pool.json",
        object_store_url="memory:///",
        engine=EngineOptions(**engine),  # type: ignore[arg-type]
    )


def test_engine_options_are_passed_on(tmp_path: Path) -> None:
    arguments = engine_arguments(
        settings(
            tmp_path,
            dtype="float32",
            max_model_len=512,
            max_loras=3,
            max_cpu_loras=9,
            max_lora_rank=32,
            tensor_parallel_size=2,
            pipeline_parallel_size=2,
            gpu_memory_utilization=0.5,
            enable_prefix_caching=False,
            enable_chunked_prefill=False,
        )
    )

    assert {
        "--dtype=float32",
        "--max-model-len=512",
        "--max-loras=3",
        "--max-cpu-loras=9",
        "--max-lora-rank=32",
        "--tensor-parallel-size=2",
        "--pipeline-parallel-size=2",
        "--gpu-memory-utilization=0.5",
        "--no-enable-prefix-caching",
        "--no-enable-chunked-prefill",
        "--served-model-name=tiny",
        f"--uds={tmp_path}/engine.sock",
    } <= set(arguments)


def test_the_engine_is_offline_silent_and_given_no_foreign_plugin(tmp_path: Path) -> None:
    inherited = {
        "PATH": "/bin",
        "VLLM_PLUGINS": "somebody_elses",
        "VLLM_SERVER_DEV_MODE": "1",
        "TENSAFE_HOME": "/secret",
    }

    environment = engine_environment(settings(tmp_path), inherited, scratch=tmp_path)

    assert environment["PATH"] == "/bin"
    assert environment["VLLM_PLUGINS"] == (
        f"{plugin_names.GENERAL_PLUGIN},{plugin_names.ENDPOINT_PLUGIN}"
    )
    assert "VLLM_SERVER_DEV_MODE" not in environment
    assert "TENSAFE_HOME" not in environment
    assert environment["VLLM_NO_USAGE_STATS"] == environment["HF_HUB_OFFLINE"] == "1"
    assert environment[plugin_names.CONFIRM_LOADS] == "0"
    several = engine_environment(
        settings(tmp_path, tensor_parallel_size=2), inherited, scratch=tmp_path
    )
    assert several[plugin_names.CONFIRM_LOADS] == "1"


@pytest.mark.parametrize(
    ("cpus", "workers", "reserved", "shares"),
    [
        ([0, 1], 2, 0, "0|1"),
        ([2, 3, 5, 7, 9], 2, 0, "2,3|5,7,9"),
        ([2, 3, 5, 7, 9], 2, 1, "2,3|5,7"),
        ([0, 1], 1, 1, "0"),
        ([0], 1, 1, "0"),
        ([0, 1], 2, 1, "0|1"),
        ([0], 2, 0, "nobind"),
    ],
)
def test_workers_share_the_cpus_that_the_pool_may_use_and_leave_the_reserved_ones(
    cpus: list[int], workers: int, reserved: int, shares: str
) -> None:
    assert cpu_shares(cpus, workers, reserved=reserved) == shares


@pytest.mark.parametrize("engine", [{"max_lora_rank": 7}, {"max_loras": 8, "max_cpu_loras": 4}])
def test_options_that_cannot_work_are_refused_at_once(
    tmp_path: Path, engine: dict[str, object]
) -> None:
    with pytest.raises(PoolConfigurationError, match="expected"):
        settings(tmp_path, **engine)


def test_the_scratch_folder_of_a_pool_is_always_the_same_and_short(tmp_path: Path) -> None:
    first, second = scratch_directory(tmp_path), scratch_directory(tmp_path / ".." / tmp_path.name)

    assert first == second
    assert first != scratch_directory(tmp_path / "other")
    # vLLM adds a slash and a UUID, for a socket.
    assert len(str(first)) + 37 <= MAX_SOCKET_PATH_BYTES


def test_sweeping_follows_no_link(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("x")
    link = tmp_path / "link"
    link.symlink_to(precious)

    sweep(link)

    assert not link.is_symlink()
    assert (precious / "file").exists()


def test_a_socket_path_that_is_too_long_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(PoolConfigurationError, match="shorter --pool-dir"):
        checked_socket_path(tmp_path / ("x" * MAX_SOCKET_PATH_BYTES))
    with pytest.raises(PoolConfigurationError):
        listen(tmp_path / ("x" * MAX_SOCKET_PATH_BYTES), backlog=1)


def test_a_function_is_replaced_once_only() -> None:
    owner = SimpleNamespace(double=lambda x: 2 * x)

    for _ in range(2):
        replace(owner, "double", lambda original: lambda x: original(x) + 1)  # type: ignore[arg-type]

    assert owner.double(5) == 11


def test_a_model_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(PoolConfigurationError, match="no model folder"):
        locate_model(str(tmp_path / "nothing"))

    found = locate_model(str(tmp_path))
    assert (found.directory, found.name) == (tmp_path.resolve(), tmp_path.name)


GRANDCHILD = """
import os, sys, time
from runtime.processes import die_with_parent, forked_children_die_with_this_process
die_with_parent(int(sys.argv[1]))
forked_children_die_with_this_process()
if (child := os.fork()) == 0:
    if (grandchild := os.fork()) == 0:
        time.sleep(60)
    os.write(1, b'%d\\n' % grandchild)
    time.sleep(60)
os.write(1, b'%d\\n' % child)
time.sleep(60)
"""


def test_children_and_their_children_die_with_a_killed_parent() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", GRANDCHILD, str(os.getpid())],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    with parent:
        assert parent.stdout is not None
        descendants = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(alive(pid) for pid in descendants)

        parent.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in descendants):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_process_whose_parent_is_already_gone_ends_at_once() -> None:
    script = "from runtime.processes import die_with_parent; die_with_parent(1); print('alive')"

    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, cwd=REPOSITORY, timeout=30
    )

    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout == b""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("missing", ["model", "keys", "rank"])
def test_a_setting_that_cannot_work_ends_the_command_with_status_two(
    tmp_path: Path, missing: str
) -> None:
    home = tmp_path / "home"
    arguments = ["serve", str(tmp_path), f"--home={home}"]
    if missing == "model":  # the folder is there, but holds no model
        create_keyrings(home / "keys")
        arguments.append(f"--pool-dir={os.path.relpath(tmp_path / 'p')}")
    elif missing == "rank":
        arguments.append("--max-lora-rank=7")

    ended = CliRunner().invoke(app, arguments)

    assert ended.exit_code == 2
    assert "tensafe pool:" in ended.output
    assert "Traceback" not in ended.output
