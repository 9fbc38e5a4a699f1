"""A running deployment with two tenants, each with an adapter of its own, and ways to ask it."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai

from deploy.local.stack import LocalStack
from tests.fakes.tiny_llama import greedy

BASE = "base"
TENSAFE = Path(sysconfig.get_path("scripts")) / "tensafe"


@dataclass(frozen=True)
class CliResult:
    """How a command ended, and what it printed."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass
class Customer:
    """A tenant, with all that it alone has."""

    id: str
    adapter: str
    adapter_dir: Path
    publisher_key: Path
    api_key: str = field(repr=False, default="")


@dataclass
class Deployment:
    """A gateway, a pool, and the tenants `acme` and `globex`."""

    stack: LocalStack
    model: Path
    scratch: Path
    seed: int
    """Of the adapters: theirs alone, so that a search for their weights finds no other run's."""
    clients: ExitStack
    began_at: float
    """Before anything of it was written, in seconds since the epoch."""
    customers: dict[str, Customer] = field(default_factory=dict)

    @property
    def acme(self) -> Customer:
        return self.customers["acme"]

    @property
    def globex(self) -> Customer:
        return self.customers["globex"]

    def cli(
        self, *arguments: str, key: str | None = None, env: Mapping[str, str] | None = None
    ) -> CliResult:
        """Run `tensafe …` as a user of this deployment would."""
        variables = {
            **os.environ,
            "TENSAFE_HOME": str(self.stack.home),
            "TENSAFE_URL": self.stack.base_url,
            "TENSAFE_API_KEY": self.stack.admin_key if key is None else key,
            **(env or {}),
        }
        done = subprocess.run(
            [TENSAFE, *arguments], env=variables, capture_output=True, text=True, timeout=120
        )
        return CliResult(done.returncode, done.stdout, done.stderr)

    def run(self, *arguments: str, key: str | None = None) -> Any:
        """Run `tensafe … --json` and return its answer; it must succeed."""
        result = self.cli(*arguments, "--json", key=key)
        assert result.exit_code == 0, result.stderr
        return result.json

    def onboard(self, tenant: str, *, adapter: str, adapter_dir: Path) -> Customer:
        """Create a tenant with a key and a publisher, and serve its adapter: all by commands."""
        customer = Customer(tenant, adapter, adapter_dir, self.scratch / f"{tenant}.key")
        self.run("tenant", "create", tenant)
        self.run("key", "publisher", "new", str(customer.publisher_key))
        self.run("key", "publisher", "register", tenant, f"{customer.publisher_key}.pub")
        customer.api_key = self.run("key", "create", tenant)["key"]
        self.push(customer, version=1)
        self.customers[tenant] = customer
        return customer

    def push(self, customer: Customer, *, version: int, activate: bool = True) -> Any:
        """Pack, upload and serve the customer's adapter folder under a version."""
        return self.run(
            "adapter",
            "push",
            str(customer.adapter_dir),
            f"--name={customer.adapter}",
            f"--version={version}",
            f"--tenant={customer.id}",
            f"--publisher-key={customer.publisher_key}",
            "--activate" if activate else "--no-activate",
            key=customer.api_key,
        )

    def sdk(self, customer: Customer, *, api_key: str | None = None) -> openai.OpenAI:
        """Return the official client as this customer uses it."""
        client = openai.OpenAI(
            base_url=f"{self.stack.base_url}/v1",
            api_key=customer.api_key if api_key is None else api_key,
            max_retries=0,
            timeout=60,
        )
        return self.clients.enter_context(client)

    def http(self, customer: Customer) -> httpx2.Client:
        """Return a plain HTTP client with this customer's key."""
        return httpx2.Client(
            base_url=self.stack.base_url,
            headers={"authorization": f"Bearer {customer.api_key}"},
            timeout=60,
        )

    def reference(self, customer: Customer | None, prompt: list[int], tokens: int) -> list[int]:
        """Return what PEFT itself generates greedily with the customer's own weights, in fp32."""
        return greedy(self.model, customer.adapter_dir if customer else None, prompt, tokens)

    def complete(self, customer: Customer, model: str, prompt: list[int], tokens: int) -> list[int]:
        """Return the token ids of a greedy completion."""
        answer = self.sdk(customer).completions.create(
            model=model,
            prompt=prompt,
            max_tokens=tokens,
            temperature=0,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )
        return answer.choices[0].token_ids  # type: ignore[attr-defined,no-any-return]

    def objects(self) -> dict[str, bytes]:
        """Return everything in the object store, by path."""
        root = self.stack.home / "objects"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }

    def package(self, customer: Customer, *, version: int, name: str | None = None) -> Path:
        """Pack the customer's adapter into a file, not uploaded."""
        output = self.scratch / f"{customer.id}-{name or customer.adapter}-{version}.tssp"
        output.unlink(missing_ok=True)
        self.run(
            "adapter",
            "pack",
            str(customer.adapter_dir),
            str(output),
            f"--name={name or customer.adapter}",
            f"--version={version}",
            f"--tenant={customer.id}",
            f"--publisher-key={customer.publisher_key}",
            key=customer.api_key,
        )
        return output
