"""Make `.venv` ready for the demo and the tests, from nothing but Python (standard library only).

Usage: python3 deploy/install.py [--venv DIR]

Everything is installed from `deploy/requirements.lock` without resolving. Two traps of the CPU
build of vLLM are why: it pins `torch==2.13.0+cpu`, which PyPI lacks (it is taken from a local wheel
or an index of the organisation's own where pip finds it there, otherwise from the PyTorch CPU
index), and it asks for torchvision, torchaudio and torchcodec, of which PyPI has CUDA builds only:
those break `import transformers` beside a CPU torch, and nothing here uses them.
Done once per change of `pyproject.toml`, the lock or this file.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
LOCK = PROJECT / "deploy" / "requirements.lock"
TORCH = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
UV = "uv==0.13.9"
MINIMUM_FREE_BYTES = 8 * 2**30


class InstallError(Exception):
    """Something is missing on this machine; the message says what to do."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=PROJECT / ".venv")
    options = parser.parse_args()
    try:
        install(options.venv)
    except InstallError as error:
        print(f"install: {error}", file=sys.stderr)
        return 1
    return 0


def install(environment: Path) -> None:
    """Bring `environment` to the state that this checkout describes; quick when it is there."""
    stamp, wanted = environment / ".tensafe-installed", _fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    _check_machine(environment)
    started = time.monotonic()
    if not (environment / "bin" / "python").exists():
        _step("making the virtual environment", started)
        venv.create(environment, with_pip=True, symlinks=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    _step(f"installing {TORCH}", started)
    _install_torch(pip)
    _step("installing vLLM (CPU build) and everything else in deploy/requirements.lock", started)
    _install_lock(environment, pip)
    _pip(pip, "install", "--no-deps", "--no-build-isolation", "--editable", str(PROJECT))
    stamp.write_text(wanted)
    _step("ready", started)


def _check_machine(environment: Path) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (this file runs before anything is checked)
        found = ".".join(map(str, sys.version_info[:2]))
        raise InstallError(
            f"Python 3.11 or newer is needed, this is {found}; run `make PYTHON=python3.12`"
        )
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        raise InstallError("a C compiler is needed by vLLM's kernels: apt-get install gcc")
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        raise InstallError(
            "the venv module lacks ensurepip: apt-get install python3-venv"
        ) from None
    free = shutil.disk_usage(environment.parent).free
    if free < MINIMUM_FREE_BYTES:
        raise InstallError(
            f"8 GiB of free disk are needed in {environment.parent}, found {free / 2**30:.1f} GiB"
        )


def _install_torch(pip: list[str]) -> None:
    found_locally = _pip(pip, "install", "--no-deps", TORCH, check=False)
    if not found_locally:
        print(f"  not on the configured indexes; taking it from {TORCH_CPU_INDEX}", flush=True)
        _pip(pip, "install", "--no-deps", TORCH, "--extra-index-url", TORCH_CPU_INDEX)


def _install_lock(environment: Path, pip: list[str]) -> None:
    """Install the lock with uv, four times as fast as pip; with pip where uv cannot."""
    _pip(pip, "install", "--no-deps", UV)
    command = [str(environment / "bin" / "uv"), "pip", "install", "--no-deps"]
    index = os.environ.get("PIP_INDEX_URL")
    target = {"VIRTUAL_ENV": str(environment), **({"UV_DEFAULT_INDEX": index} if index else {})}
    result = subprocess.run(
        [*command, "--requirement", str(LOCK)],
        capture_output=True,
        text=True,
        env={**os.environ, **target},
        check=False,
    )
    if result.returncode != 0:
        print(f"  uv could not ({result.stderr.strip()[-200:]}); using pip", flush=True)
        _pip(pip, "install", "--no-deps", "--requirement", str(LOCK))


def _pip(pip: list[str], *arguments: str, check: bool = True) -> bool:
    """Run pip quietly; on failure show what it said, and raise when `check`."""
    environment = {**os.environ, "PIP_NO_INPUT": "1"}
    result = subprocess.run(
        [*pip, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode == 0:
        return True
    if check:
        tail = "\n".join((result.stdout + result.stderr).splitlines()[-15:])
        raise InstallError(f"`pip {' '.join(arguments)}` failed:\n{tail}")
    return False


def _step(text: str, started: float) -> None:
    print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)


def _fingerprint() -> str:
    files = (PROJECT / "pyproject.toml", LOCK, Path(__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
