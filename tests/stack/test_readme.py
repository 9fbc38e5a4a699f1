"""The README: every command in it runs, in its order, and its table of settings is the code's."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from tests.fakes.tiny_llama import make_adapter, make_model

README = Path(__file__).parents[2] / "README.md"
MAKE_TARGETS_RUN_ELSEWHERE = {"demo", "test"}  # by test_demo.py, and by whoever runs this


@pytest.mark.engine
@pytest.mark.slow
def test_the_commands_run_in_their_order(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    adapter = make_adapter(model, tmp_path / "adapter", seed=1)
    script = "\n".join(
        [
            "set -euo pipefail",
            "trap 'kill $(jobs -p); wait' EXIT",  # what runs in the background has our output open
            *_blocks("sh"),
            f"python - <<'EOF'\n{_python()}\nEOF",
        ]
    )
    with tempfile.TemporaryDirectory(prefix="ts-", dir="/tmp") as home:
        environment = {
            **os.environ,
            "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
            "MODEL": str(model),
            "ADAPTER": str(adapter),
            "TENSAFE_HOME": f"{home}/home",
            **_free_address(),
        }
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=240)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    logs = "".join((tmp_path / f"{name}.log").read_text()[-2000:] for name in ("pool", "gateway"))
    assert process.returncode == 0, output + logs
    assert "support@1 is active" in output
    assert '"model":"support"' in output.replace(": ", ":")
    assert "records verified" in output


def test_the_first_block_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^\$ make (\w+)", "\n".join(_blocks("console")), re.MULTILINE))
    assert targets == MAKE_TARGETS_RUN_ELSEWHERE
    makefile = (README.parent / "Makefile").read_text()
    mentioned = targets | set(re.findall(r"`make (\w+)`", README.read_text()))
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in mentioned)


def test_the_table_of_settings_is_that_of_the_code() -> None:
    assert _section("settings") == settings_table()


def test_no_marked_section_is_empty() -> None:
    for name in ("demo", "numbers"):
        assert len(_section(name).splitlines()) > 5


def settings_table() -> str:
    """Return the settings as the README has them."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, field in GatewaySettings.model_fields.items():
        variable = "`TENSAFE_HOME`" if name == "home" else f"`GATEWAY_{name.upper()}`"
        default = DERIVED_DEFAULTS.get(name, field.default)
        rows.append(f"| {variable} | `{default}` | {field.description or ''} |")
    return "\n".join(rows)


DERIVED_DEFAULTS = {
    "home": "~/.tensafe",
    "database_url": "sqlite:///HOME/gateway.db",
    "object_store_url": "file:///HOME/objects",
    "keyring": "HOME/keys/gateway.json",
    "pool_dir": "HOME/pool",
}


def _section(name: str) -> str:
    match = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- /{name} -->", README.read_text(), re.DOTALL)
    assert match is not None
    return match[1]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def _python() -> str:
    (block,) = _blocks("python")
    # The tenant's part of the script has its key in the environment; the auditor's is last.
    key = "import json, os; os.environ['TENSAFE_API_KEY'] = json.load(open('acme.json'))['key']"
    return f"{key}\n{block}"


def _free_address() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"GATEWAY_PORT": str(port), "TENSAFE_URL": f"http://127.0.0.1:{port}"}
