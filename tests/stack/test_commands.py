"""The `tensafe` command: what it says, to people and to programs, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.stack.deployment import Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]


@pytest.fixture(scope="module")
def package(deployment: Deployment) -> Path:
    return deployment.package(deployment.acme, version=60)


def test_inspect_shows_the_manifest_and_says_that_nothing_is_verified(
    deployment: Deployment, package: Path
) -> None:
    shown = deployment.run("adapter", "inspect", str(package))
    assert shown["tenant"] == "acme"
    assert shown["version"] == 60
    assert len(shown["recipients"]) == 1
    assert "unverified" in deployment.cli("adapter", "inspect", str(package)).stdout


def test_verify_needs_the_right_publisher(deployment: Deployment, package: Path) -> None:
    own = ("--publisher", f"{deployment.acme.publisher_key}.pub")
    assert deployment.run("adapter", "verify", str(package), *own)["verified"] is True
    other = ("--publisher", f"{deployment.globex.publisher_key}.pub")
    result = deployment.cli("adapter", "verify", str(package), *other, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"]["code"] == "unknown_signer"


def test_verify_finds_one_changed_byte(
    deployment: Deployment, package: Path, tmp_path: Path
) -> None:
    changed = bytearray(package.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed.tssp").write_bytes(changed)
    result = deployment.cli(
        "adapter",
        "verify",
        str(tmp_path / "changed.tssp"),
        f"--publisher={deployment.acme.publisher_key}.pub",
    )
    assert result.exit_code == 1
    assert "error:" in result.stderr


def test_an_unpublishable_folder_is_refused_by_name(deployment: Deployment, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04pickle")
    result = deployment.cli(
        "adapter",
        "push",
        str(tmp_path),
        "--name=x",
        "--tenant=acme",
        f"--publisher-key={deployment.acme.publisher_key}",
        key=deployment.acme.api_key,
    )
    assert result.exit_code == 1
    assert "adapter_model.bin" in result.stderr


def test_the_exported_log_verifies_and_one_changed_byte_is_found(
    deployment: Deployment, tmp_path: Path
) -> None:
    exported = tmp_path / "audit.jsonl"
    deployment.run("audit", "export", str(exported))
    verified = deployment.run("audit", "verify", str(exported))
    assert verified["records"] > 10
    assert deployment.run("audit", "verify")["records"] >= verified["records"]
    content = bytearray(exported.read_bytes())
    position = content.index(b"acme")
    content[position] ^= 1
    exported.write_bytes(content)
    result = deployment.cli("audit", "verify", str(exported), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr)["error"]["code"] == "audit_tampered"


def test_a_head_noted_earlier_shows_a_log_that_was_cut(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.run("audit", "export", str(tmp_path / "long.jsonl"))
    head = deployment.run("audit", "verify", str(tmp_path / "long.jsonl"))
    noted = f"{head['records']}:{head['head']}"
    assert deployment.run("audit", "verify", "--expect", noted)["verified"] is True
    forged = f"{head['records']}:{'0' * 64}"
    assert deployment.cli("audit", "verify", "--expect", forged).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "key", "exit_code", "says"),
    [
        (["tenant", "create"], None, 2, "Missing argument"),
        (["tenant", "create", "Not A Name"], None, 1, "tenant"),
        (["tenant", "create", "acme"], None, 1, "exists"),
        (["tenant", "disable", "nobody"], None, 4, ""),
        (["tenant", "list"], "tsk_test_bad", 3, "API key"),
        (["tenant", "list"], "", 3, "TENSAFE_API_KEY"),
        (["tenant", "list", "--url=http://127.0.0.1:1"], None, 5, "gateway serve"),
        (["adapter", "inspect", "/nowhere.tssp"], None, 2, "/nowhere.tssp"),
        (["gateway", "serve", "--port=x"], None, 2, ""),
    ],
)
def test_errors_say_what_to_do_and_exit_codes_mean_it(
    deployment: Deployment, arguments: list[str], key: str | None, exit_code: int, says: str
) -> None:
    result = deployment.cli(*arguments, key=key)
    assert result.exit_code == exit_code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [[], ["gateway"], ["pool"], ["tenant"], ["key"], ["key", "publisher"], ["adapter"], ["audit"]],
)
def test_every_group_teaches_its_commands(deployment: Deployment, command: list[str]) -> None:
    result = deployment.cli(*command, "--help")
    assert result.exit_code == 0
    assert "Commands" in result.stdout
