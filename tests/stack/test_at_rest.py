"""What lies on disks after everything has happened: no weight of an adapter, and no API key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deploy.demo.places import files_with, weight_samples
from tests.stack.deployment import Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]


def everywhere(deployment: Deployment, needles: list[bytes]) -> list[Path]:
    """Search every file that was written since the deployment began, wherever the stack could."""
    return [
        path
        for place in (Path("/dev/shm"), Path("/tmp"))
        for path in place.rglob("*")
        if _written_since(path, deployment.began_at) and _holds(path, needles)
    ]


def test_no_file_has_the_weights_of_an_adapter(deployment: Deployment) -> None:
    for customer in deployment.customers.values():
        deployment.complete(customer, customer.adapter, [256, 65, 66], 4)
        needles = weight_samples(customer.adapter_dir)
        assert len(needles) > 20
        found = everywhere(deployment, needles)
        assert [path for path in found if not _is_the_publishers(path, deployment)] == []


def test_no_file_has_an_api_key_or_the_secret_part_of_one(deployment: Deployment) -> None:
    keys = [deployment.stack.admin_key, *(c.api_key for c in deployment.customers.values())]
    for key in keys:
        secret = key.rpartition("_")[2]
        needles = [key.encode(), secret.encode(), secret[:32].encode()]
        assert everywhere(deployment, needles) == []


def test_the_search_finds_what_is_there(deployment: Deployment) -> None:
    """The control: the publisher's own folder has the weights, and the search sees them."""
    for customer in deployment.customers.values():
        needles = weight_samples(customer.adapter_dir)
        found = files_with(needles, deployment.scratch)
        assert found == [customer.adapter_dir / "adapter_model.safetensors"]
    planted = deployment.stack.home / "logs" / "planted.log"
    planted.write_text(f"oops: {deployment.acme.api_key}\n")
    try:
        assert everywhere(deployment, [deployment.acme.api_key.encode()]) == [planted]
    finally:
        planted.unlink()


def test_only_the_owner_can_read_what_the_stack_writes(deployment: Deployment) -> None:
    loose = [
        path
        for path in [deployment.stack.home, *deployment.stack.home.rglob("*")]
        if path.lstat().st_mode & 0o077 and not path.is_symlink()
    ]
    # Inside folders that are closed themselves, a mode is a second line of defence only.
    open_to_others = [path for path in loose if _reachable_by_others(path)]
    assert open_to_others == []


def test_no_secret_is_on_any_command_line_or_in_an_environment(deployment: Deployment) -> None:
    keys = [deployment.stack.admin_key, *(c.api_key for c in deployment.customers.values())]
    seen = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if str(deployment.stack.home).encode() not in environment + command:
            continue
        seen += 1
        assert not any(key.encode() in environment + command for key in keys)
    assert seen >= 4  # gateway, agent, API server, engine


def _written_since(path: Path, moment: float) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False  # gone while we were looking
    return stat.S_ISREG(status.st_mode) and status.st_mtime >= moment


def _holds(path: Path, needles: list[bytes]) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return any(needle in content for needle in needles)


def _is_the_publishers(path: Path, deployment: Deployment) -> bool:
    return path.is_relative_to(deployment.scratch)


def _reachable_by_others(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o011 for parent in path.parents)
