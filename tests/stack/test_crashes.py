"""SIGKILL in the middle of a stream: the restart serves again, and no committed record is lost."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import httpx2
import openai
import psutil
import pytest

from deploy.local.processes import ChildProcess
from tests.stack.deployment import Deployment

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PROMPT = [256, *range(65, 85)]
TOKENS = 12
LONG = 450


def cut(deployment: Deployment, process: ChildProcess) -> int:
    """Kill `process` during a stream; return how many chunks the client had got until then."""
    stream = deployment.sdk(deployment.acme).completions.create(
        model="support",
        prompt=PROMPT,
        max_tokens=LONG,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    got = list(itertools.islice(stream, 3))
    process.kill()
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        got.extend(stream)
    return len(got)


def records(deployment: Deployment) -> tuple[int, str]:
    """Return the head of a log that verifies."""
    head = deployment.run("audit", "verify")
    return head["records"], head["head"]


def eventually(condition: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_gateway_killed_in_a_stream_serves_again(deployment: Deployment) -> None:
    expected = deployment.complete(deployment.acme, "support", PROMPT, TOKENS)
    count, head = records(deployment)
    assert 3 <= cut(deployment, deployment.stack.gateway) < LONG
    after, _ = records(deployment)
    assert after > count  # the request that was cut had been recorded before its first token
    deployment.stack.gateway.start()
    deployment.stack.wait_until_ready()
    assert deployment.run("audit", "verify", "--expect", f"{count}:{head}")["records"] >= after
    assert deployment.complete(deployment.acme, "support", PROMPT, TOKENS) == expected


def test_the_pool_killed_in_a_stream_leaves_nothing_and_serves_again(
    deployment: Deployment,
) -> None:
    expected = deployment.complete(deployment.acme, "support", PROMPT, TOKENS)
    count, head = records(deployment)
    children = psutil.Process(deployment.stack.pool.pid).children(recursive=True)
    assert len(children) >= 2
    assert 3 <= cut(deployment, deployment.stack.pool) < LONG
    eventually(lambda: not any(child.is_running() for child in children), within_s=10)
    with pytest.raises(openai.APIStatusError) as refused:
        deployment.complete(deployment.acme, "support", PROMPT, TOKENS)
    assert refused.value.status_code == 503
    deployment.stack.pool.start()
    deployment.stack.wait_until_ready()
    assert deployment.complete(deployment.acme, "support", PROMPT, TOKENS) == expected
    assert deployment.complete(deployment.globex, "notes", PROMPT, TOKENS)
    assert deployment.run("audit", "verify", "--expect", f"{count}:{head}")["records"] > count
