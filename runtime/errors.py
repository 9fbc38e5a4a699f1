"""The errors of the pool.

    PoolError
      PoolConfigurationError        a setting cannot work; says what to change
      EngineContractError           this vLLM is not the one that the plugins were written for
      EngineStartError              the engine ended before it served anything
      EngineUnavailableError        the engine is not there now, or did not answer in time
      BrokerError                   an adapter could not be handed to the engine
        BrokerProtocolError         the peer sent something that is no message of ours
        BrokerUnavailableError      the broker is gone, busy or too slow
        AdapterRefusedError(code)   the broker answered, and the answer is no

None of their texts contains a prompt, a key or a tensor: they may be logged.
"""

from __future__ import annotations

from typing import ClassVar


class PoolError(Exception):
    """Root of every error of the pool."""

    code: ClassVar[str] = "pool_error"


class PoolConfigurationError(PoolError):
    """A setting cannot work; the message says what to change."""

    code = "pool_misconfigured"


class EngineContractError(PoolError):
    """This vLLM is not the one that the plugins were written for."""

    code = "engine_contract_broken"


class EngineStartError(PoolError):
    """The engine ended, or did not answer in time, before it served anything."""

    code = "engine_start_failed"


class EngineUnavailableError(PoolError):
    """The engine is not there now, or did not answer in time."""

    code = "engine_unavailable"


class BrokerError(PoolError):
    """An adapter could not be handed to the engine."""

    code = "broker_error"


class BrokerProtocolError(BrokerError):
    """The peer sent something that is no message of ours."""

    code = "broker_protocol_error"


class BrokerUnavailableError(BrokerError):
    """The broker is gone, busy or too slow."""

    code = "broker_unavailable"


class AdapterRefusedError(BrokerError):
    """The broker answered, and the answer is no; `reason` is a stable error code."""

    code = "adapter_refused"

    def __init__(self, reason: str, *, kind: str) -> None:
        super().__init__(f"the adapter was refused: {reason}")
        self.reason = reason
        self.kind = kind
