"""The demo from beginning to end: prepare, serve, talk, attack, stop, and look at what is left."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from openai import APIError

from deploy.demo import security
from deploy.demo.conversation import Talk, Throughput, speaker, talk
from deploy.demo.messages import PLAIN_TENANT, PRIVATE_TENANT
from deploy.demo.onboarding import Http, Tenant, create_tenant, pack_adapter, serve_package
from deploy.demo.places import (
    files_with,
    home_directory,
    not_interrupted,
    plaintext_directory,
    processes_of,
    remove_directory,
    shared_memory_of,
    weight_samples,
)
from deploy.demo.preparation import BaseModel, Training, choose_model
from deploy.demo.results import Outcome, TenantResult
from deploy.demo.steps import Steps
from deploy.local.stack import LocalStack
from deploy.report import Bar
from gateway.cli.errors import CliError
from training.corpus import Corpus, load_corpus

KeepRunning = Callable[[Outcome, str, Tenant], None]
"""Is given what was found, the gateway's URL and a tenant; everything is stopped after it."""

_ADAPTERS: Final = {PLAIN_TENANT: "mail", PRIVATE_TENANT: "manual"}
_WORDS: Final = {
    PLAIN_TENANT: {
        "question": 'def send(self, message):\n    """Send a message to the server."""',
        "opening": 'def get_content_type(self):\n    """Return the',
    },
    PRIVATE_TENANT: {
        "question": "What is a class definition?",
        "opening": "The statement is executed when",
    },
}
_TENANTS: Final = "tenants and keys"
_PACKAGES: Final = "pack, upload, activate"
_TALK: Final = "both tenants talk at once"
_ATTACKS: Final = "what must not work"
_POLL_S: Final = 0.1
_VANISHING_S: Final = 2.0  # a killed process is there until its parent has taken note


def run_demo(model: str | None, steps: Steps, *, keep_running: KeepRunning | None) -> Outcome:
    """Run everything; nothing of it is left when this returns or raises.

    Raises CliError, StackError or ProcessError when a step cannot be done at all; a check that
    fails is a bar of the outcome that does not hold.
    """
    started = time.monotonic()
    corpus = load_corpus()
    base_model = choose_model(model, corpus, os.environ)
    made_model = not base_model.exists
    kept_s = 0.0
    with ExitStack() as cleanup:
        home = cleanup.enter_context(home_directory())
        plaintext = cleanup.enter_context(plaintext_directory())
        training = Training.create(home, plaintext, base_model, steps)
        cleanup.callback(_uninterrupted, training.process.stop)
        training.process.start()
        stack = LocalStack.create(
            home,
            model=base_model.directory,
            served_model_name=base_model.name,
            pool_arguments=base_model.pool_arguments,
        )
        cleanup.callback(_uninterrupted, stack.stop)
        _bring_up(stack, training, base_model, steps)
        outcome, tenants = _show(stack, training, base_model, corpus, plaintext, steps)
        if keep_running is not None:
            steps.hide()
            kept_from = time.monotonic()
            keep_running(outcome, stack.base_url, tenants[0])
            kept_s = time.monotonic() - kept_from
        steps.begin("stop everything")
        shared_memory = shared_memory_of(processes_of(home))
    outcome.checks.append(_nothing_left(home, plaintext, *shared_memory))
    steps.finish("stop everything")
    outcome.add_time(time.monotonic() - started - kept_s, made_model=made_model)
    return outcome


def _bring_up(stack: LocalStack, training: Training, model: BaseModel, steps: Steps) -> None:
    """Start the pool as soon as there is a model, and wait for it and for both adapters."""
    steps.begin("gateway and pool")
    if model.exists:
        stack.pool.start()  # takes longest
    stack.gateway.start()
    while not training.model_ready:
        training.poll()
        time.sleep(_POLL_S)
    if not stack.pool.started:
        stack.pool.start()
    stack.wait_until_ready(on_wait=training.poll)
    steps.finish("gateway and pool", "ready")
    while not training.done:
        training.poll()
        time.sleep(_POLL_S)


def _show(
    stack: LocalStack,
    training: Training,
    model: BaseModel,
    corpus: Corpus,
    plaintext: Path,
    steps: Steps,
) -> tuple[Outcome, list[Tenant]]:
    """Everything that is done with a running deployment."""
    with ExitStack() as connections:
        admin = connections.enter_context(Http(stack.base_url, stack.admin_key))
        steps.begin(_TENANTS)
        tenants = [
            create_tenant(admin, name, name=name.capitalize(), adapter=adapter)
            for name, adapter in _ADAPTERS.items()
        ]
        acme, globex = (
            connections.enter_context(Http(stack.base_url, tenant.api_key)) for tenant in tenants
        )
        steps.finish(_TENANTS)

        steps.begin(_PACKAGES)
        samples = _samples(plaintext)
        packages = _pack([acme, globex], tenants, training, plaintext, stack.home)
        remove_directory(plaintext)
        serve_package(acme, packages[0])
        serve_package(globex, packages[1])
        steps.finish(_PACKAGES, "plaintext removed")

        steps.begin(_TALK)
        one, two, throughput = _talk(stack, tenants, corpus, model)
        steps.finish(_TALK, f"{throughput.tokens_per_s:.0f} tokens/s")

        steps.begin(_ATTACKS)
        checks = [
            security.strangers_adapter(globex, tenants[0].adapter),
            security.tampered_package(acme, packages[2]),
            security.foreign_package(globex, packages[0]),
            security.revoked_key(admin, stack.base_url, tenants[1]),
            *security.audit_log(admin),
            *security.nothing_at_rest(
                stack.home,
                weights=samples,
                keys=[stack.admin_key, *(tenant.api_key for tenant in tenants)],
            ),
        ]
        steps.finish(_ATTACKS)
    results = [
        TenantResult(tenant.id, tenant.adapter, domain.subject, training.adapters[tenant.id], said)
        for tenant, domain, said in zip(tenants, corpus.domains, (one, two), strict=True)
    ]
    bars = [bar for result in results for bar in result.bars()]
    return Outcome(tenants=results, throughput=throughput, checks=[*bars, *checks]), tenants


def _pack(
    https: list[Http], tenants: list[Tenant], training: Training, plaintext: Path, home: Path
) -> list[Path]:
    """A package of each tenant's adapter, and a second version of the first to tamper with."""
    packages = []
    for number, version in ((0, 1), (1, 1), (0, 2)):
        tenant = tenants[number]
        packages.append(home / f"{tenant.adapter}-{version}.tssp")
        pack_adapter(
            https[number],
            tenant,
            plaintext / tenant.id,
            packages[-1],
            privacy=training.adapters[tenant.id].privacy,
            version=version,
        )
    return packages


def _samples(plaintext: Path) -> list[bytes]:
    """Bytes of every adapter's weights; raises if a search could not find them."""
    samples = [sample for name in sorted(_ADAPTERS) for sample in weight_samples(plaintext / name)]
    if len(files_with(samples, plaintext)) != len(_ADAPTERS):
        raise CliError("the search for plaintext does not find it where it is", code="bad_search")
    return samples


def _talk(
    stack: LocalStack, tenants: list[Tenant], corpus: Corpus, model: BaseModel
) -> tuple[Talk, Talk, Throughput]:
    first, second = (
        speaker(stack.base_url, tenant, domain.held_out, **_WORDS[tenant.id])
        for tenant, domain in zip(tenants, corpus.domains, strict=True)
    )
    try:
        return asyncio.run(talk(first, second, base_model=model.name))
    except APIError as error:
        raise CliError(
            f"a request failed: {error}\nThe end of the pool's log:\n{stack.pool.log_tail()}",
            code="request_failed",
        ) from error


def _uninterrupted(stop: Callable[[], None]) -> None:
    with not_interrupted():
        stop()


def _nothing_left(home: Path, *others: Path) -> Bar:
    deadline = time.monotonic() + _VANISHING_S
    while processes_of(home) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    left = [str(path) for path in (home, *others) if path.exists()]
    left += [f"process {number}" for number in processes_of(home)]
    return Bar(
        name="processes, sockets and files left behind",
        value=", ".join(left) or "none",
        limit="none",
        holds=not left,
    )
