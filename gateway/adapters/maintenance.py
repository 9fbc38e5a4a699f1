"""What keeps adapters in order: renews records, finishes what was begun, sweeps leftovers."""

from __future__ import annotations


class AdapterMaintenance:
    """Runs beside the service; every step may be repeated and may run on several replicas."""

    async def run(self) -> None:
        """Work until cancelled; a failure is logged and tried again."""
        raise NotImplementedError

    async def run_once(self) -> None:
        """Do everything that is due now."""
        raise NotImplementedError
