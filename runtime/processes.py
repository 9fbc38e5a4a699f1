"""What every process of the pool does at its start: die with its parent, and leave no core file."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time

_PR_SET_PDEATHSIG = 1
"""prctl(2), <linux/prctl.h>."""

_TRACKERS_GRACE_S = 2.0
_POLL_S = 0.05


def die_with_parent(parent_id: int) -> None:
    """Have the kernel kill this process when the thread that started it ends (prctl(2)).

    `parent_id` is the process id that the parent is known to have: if it died before this
    call, nobody would send the signal, so this process ends at once.
    """
    if _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_id:
        os.kill(os.getpid(), signal.SIGKILL)


def forked_children_die_with_this_process() -> None:
    """Tie every child that this process, or such a child, forks from now on to its parent."""
    forking: list[int] = []

    def before() -> None:
        forking[:] = [os.getpid()]

    def in_child() -> None:
        die_with_parent(forking[0])

    os.register_at_fork(before=before, after_in_child=in_child)


def group_dies_with_this_process() -> None:
    """Have a guard end this process' group after this process has ended, however it ended.

    For children that are started but have not tied themselves to their parent yet: they import
    for seconds, and then wait for a parent that is no more. Python's resource trackers, which are
    of the group too, get a moment to unlink the shared memory of the dead. Only for the leader of
    a group.
    """
    group = os.getpid()
    if os.getpgrp() != group or os.fork():
        return
    os.setsid()  # whoever waits for the group to vanish does not wait for the guard
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1, 0, 0, 0)
    if os.getppid() == group:
        signal.sigwait({signal.SIGUSR1})
    with contextlib.suppress(ProcessLookupError):
        for _ in range(int(_TRACKERS_GRACE_S / _POLL_S)):
            os.killpg(group, 0)
            time.sleep(_POLL_S)
        os.killpg(group, signal.SIGKILL)
    os._exit(0)


def forbid_core_dumps() -> None:
    """Keep decrypted weights and prompts out of core files, here and in every child."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
