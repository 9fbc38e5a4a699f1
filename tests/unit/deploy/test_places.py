"""Private folders go away whatever happens, and what was left behind is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from deploy.demo.places import (
    files_with,
    home_directory,
    plaintext_directory,
    processes_of,
    shared_memory_of,
    stopping_on_sigterm,
    weight_samples,
)


@pytest.fixture(autouse=True)
def temporary_files_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def save_adapter(directory: Path) -> None:
    directory.mkdir()
    module = "base_model.model.model.layers.0.self_attn.q_proj"
    generator = np.random.default_rng(0)
    tensors = {
        f"{module}.lora_A.weight": generator.normal(size=(4, 32)).astype(np.float32),
        f"{module}.lora_B.weight": np.zeros((32, 4), np.float32),
    }
    save_file(tensors, directory / "adapter_model.safetensors")


def test_a_home_is_private_and_gone_afterwards() -> None:
    with home_directory() as home:
        assert home.stat().st_mode & 0o777 == 0o700
        (home / "file").touch()
    assert not home.exists()


def test_plaintext_is_removed_even_when_the_run_is_interrupted() -> None:
    def interrupted() -> None:
        with plaintext_directory() as directory:
            places.append(directory)
            raise KeyboardInterrupt

    places: list[Path] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not places[0].exists()


def test_what_a_killed_run_left_is_removed_by_the_next_one_but_not_what_is_in_use() -> None:
    with home_directory() as in_use:
        abandoned = in_use.parent / "tensafe-demo-abandoned"
        abandoned.mkdir()
        (abandoned / "lock").touch()
        foreign = in_use.parent / "tensafe-demo-foreign"
        foreign.mkdir()
        with home_directory():
            assert in_use.exists()
            assert not abandoned.exists()
            assert foreign.exists()  # no lock: perhaps just being made


def test_sigterm_ends_a_run_through_its_finally_blocks() -> None:
    def run() -> None:
        with stopping_on_sigterm(), home_directory() as home:
            homes.append(home)
            os.kill(os.getpid(), signal.SIGTERM)

    homes: list[Path] = []
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 143
    assert not homes[0].exists()


def test_samples_are_of_every_tensor_that_says_something(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter")
    (sample,) = weight_samples(tmp_path / "adapter")  # B is all zero, which is everywhere
    assert sample in (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()


def test_the_search_finds_weights_where_they_are_and_nowhere_else(tmp_path: Path) -> None:
    save_adapter(tmp_path / "adapter")
    samples = weight_samples(tmp_path / "adapter")
    (tmp_path / "ciphertext").write_bytes(os.urandom(10_000))
    (tmp_path / "log").write_bytes(b"x" * 100 + samples[0] + b"y")
    found = files_with(samples, tmp_path)
    assert {path.name for path in found} == {"adapter_model.safetensors", "log"}


def test_a_process_of_a_home_is_found_by_its_environment(tmp_path: Path) -> None:
    program = "import time; print('up', flush=True); time.sleep(60)"
    environ = {**os.environ, "TENSAFE_HOME": str(tmp_path / "here")}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environ, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert processes_of(tmp_path / "here") == [process.pid]
            assert processes_of(tmp_path / "there") == []
        finally:
            process.kill()
    assert processes_of(tmp_path / "here") == []


def test_shared_memory_of_a_process_is_found(tmp_path: Path) -> None:
    from multiprocessing.shared_memory import SharedMemory

    memory = SharedMemory(create=True, size=4096)
    try:
        assert Path("/dev/shm", memory.name) in shared_memory_of([os.getpid()])
    finally:
        memory.close()
        memory.unlink()
    assert Path("/dev/shm", memory.name) not in shared_memory_of([os.getpid()])
