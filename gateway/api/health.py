"""Probes and metrics: public, so they say whether and how much, never who or what."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.context import State
from gateway.api.requests import json_response


async def health(_: Request[State]) -> Response:
    """`GET /health`: this process answers. Restart it when it does not."""
    return json_response({"status": "ok"})


async def readiness(request: Request[State]) -> Response:
    """`GET /readiness`: everything that a request needs answers. Send none while it does not."""
    report = await request.state["services"].readiness.report()
    names = {
        "status": "ready" if report.ready else "unavailable",
        "checks": {name: "ok" if good else "failed" for name, good in report.checks.items()},
    }
    return json_response(names, status=200 if report.ready else 503)


async def metrics(request: Request[State]) -> Response:
    """`GET /metrics`, in Prometheus' text format."""
    text = request.state["services"].metrics.render()
    return Response(text, headers={"content-type": CONTENT_TYPE_PLAIN_0_0_4})


routes = [
    Route("/health", health, methods=["GET"]),
    Route("/readiness", readiness, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
