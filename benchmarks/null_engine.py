"""An engine that answers at once, so that what is measured is the gateway alone.

Usage: python -m benchmarks.null_engine POOL_DIR     (then POOL_DIR/{engine,control}.sock listen)
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

MODEL = "null"
_ANSWER = {
    "id": "chatcmpl-0",
    "object": "chat.completion",
    "created": 0,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "An answer of about forty characters."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 12, "completion_tokens": 9, "total_tokens": 21},
}
_ANSWER_BYTES = json.dumps(_ANSWER).encode()
_BASE_MODEL = {"id": MODEL, "fingerprint": "0" * 64, "max_lora_rank": 8, "max_model_len": 512}


async def answer(request: Request) -> Response:
    """Read the request as an engine would, and answer with a constant."""
    json.loads(await request.body())
    return Response(_ANSWER_BYTES, media_type="application/json")


async def base_model(_: Request) -> Response:
    """Say which model this is."""
    return JSONResponse(_BASE_MODEL)


async def health(_: Request) -> Response:
    """Say that it is ready."""
    return JSONResponse({"status": "ready"})


def create_engine() -> Starlette:
    """Return the engine's side."""
    return Starlette(routes=[Route("/v1/chat/completions", answer, methods=["POST"])])


def create_control() -> Starlette:
    """Return the control side."""
    return Starlette(
        routes=[
            Route("/control/v1/base-model", base_model),
            Route("/control/v1/health", health),
        ]
    )


async def serve(pool_dir: Path) -> None:
    """Serve both sockets until told to stop."""
    servers = [
        uvicorn.Server(
            uvicorn.Config(app, uds=str(pool_dir / name), log_level="warning", access_log=False)
        )
        for app, name in ((create_engine(), "engine.sock"), (create_control(), "control.sock"))
    ]
    await asyncio.gather(*(server.serve() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
