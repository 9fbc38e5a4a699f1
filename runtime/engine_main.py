"""The first process of the engine: vLLM's API server, tied to the agent that started it."""

from __future__ import annotations

import os

from runtime.processes import (
    die_with_parent,
    forbid_core_dumps,
    forked_children_die_with_this_process,
    group_dies_with_this_process,
)

PARENT_ID = "TENSAFE_AGENT_PID"


def main() -> None:
    """Serve vLLM with the arguments of the command line, for as long as the agent lives."""
    die_with_parent(int(os.environ[PARENT_ID]))
    group_dies_with_this_process()
    forked_children_die_with_this_process()
    forbid_core_dumps()
    os.umask(0o077)  # vLLM binds its socket with what the umask leaves
    # A plugin that cannot even be imported is only logged by vLLM, and the engine would start
    # without its hooks: so import it here, where failing ends the process. Imported late, to
    # be tied to the parent during the seconds that these imports take.
    from vllm.entrypoints.launchers.api_server.entry import main as serve

    import runtime.plugin  # noqa: F401
    from runtime.engine_contract import check_engine_contract

    check_engine_contract()
    serve()


if __name__ == "__main__":
    main()
