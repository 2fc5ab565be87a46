"""Runs on a Dask cluster, where LATENTARIUM_SCHEDULER names its scheduler. Dask is imported only then.

The workers see the same checkpoint folder, and that is where the queue is: for each run a task wakes an idle worker,
which does what has waited longest, and the next, until nothing waits. The tasks belong to nobody (`fire_and_forget`)
and outlive the app; a Client's executor takes its tasks along when it ends, so they are submitted without one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from vae.checkpoint import checkpoint_root
from vae.processes import RunError

CONNECT_SECONDS = 3.0
LOOK_SECONDS = 2.0  # between two looks at a scheduler
AT_WORK, IDLE, OUT_OF_REACH = "at work", "idle", "out of reach"
PREFIX = "latentarium-"  # of our tasks' keys

_lock = threading.Lock()
# What Dask raises where it finds no scheduler; on a busy machine it may assert that its own thread has started.
NO_ANSWER = (OSError, ValueError, RuntimeError, AssertionError)
_clients: dict[str, Any] = {}
_looks: dict[str, tuple[float, str]] = {}  # by address: when it was asked, and how it was


def address() -> str:
    """The scheduler's address, tcp://host:port; empty if runs train on this machine."""
    return os.environ.get("LATENTARIUM_SCHEDULER", "")


def submit(scheduler: str) -> None:
    """Wakes a worker for the runs that wait. Raises RunError if the cluster can't be reached, or Dask is missing."""
    try:
        from distributed import fire_and_forget

        client = _client(scheduler)
        # Left to itself, the scheduler may queue two tasks on one worker while another is idle.
        worker = client.run_on_scheduler(_make_choice())
        key = f"{PREFIX}{time.time_ns()}"
        options = {"workers": [worker], "allow_other_workers": True} if worker else {}
        future = client.submit(_make_task(), str(checkpoint_root()), key=key, pure=False, **options)
        fire_and_forget(future)
        deadline = time.monotonic() + CONNECT_SECONDS
        while key not in client.run_on_scheduler(_make_look(), PREFIX) and not future.done():
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(0.02)
        _looks.pop(scheduler, None)
    except ImportError as error:
        raise RunError("LATENTARIUM_SCHEDULER is set, but Dask is missing: pip install distributed.") from error
    except NO_ANSWER as error:
        raise RunError(f"{_silence(scheduler)} Then try again, or unset LATENTARIUM_SCHEDULER.") from error


# What follows is made inside functions so that it travels whole: Dask only names what can be imported, and a scheduler
# or worker that was started as a command finds no `vae` to import.


def _make_task() -> Callable[[str], None]:
    """What a cluster's worker does: one run after the other, each in a process that goes on if the cluster does not."""

    def work_on_what_waits(root: str) -> None:
        import os
        import subprocess
        import sys

        environment = os.environ | {"LATENTARIUM_CHECKPOINTS": root}
        command = [sys.executable, "-m", "vae", "work-next"]
        while subprocess.run(command, env=environment, start_new_session=True, check=False).returncode == 0:
            pass

    return work_on_what_waits


def _make_choice() -> Callable[..., str | None]:
    """What is asked of the scheduler: its least busy worker."""

    def least_busy(dask_scheduler: Any = None) -> str | None:
        workers = dask_scheduler.workers.values()
        return min(workers, key=lambda worker: len(worker.processing) / worker.nthreads).address if workers else None

    return least_busy


def _make_look() -> Callable[..., list[str]]:
    """What is asked of the scheduler: the keys of our tasks that are not done."""

    def keys_of(prefix: str, dask_scheduler: Any = None) -> list[str]:
        done = ("memory", "erred", "released", "forgotten")
        tasks = dask_scheduler.tasks.items()
        return [key for key, task in tasks if str(key).startswith(prefix) and task.state not in done]

    return keys_of


def is_at_work(scheduler: str) -> bool:
    """Whether the scheduler has tasks of ours that are not done, so that what waits will have its turn."""
    return _look(scheduler) == AT_WORK


def problem(scheduler: str) -> str:
    """Why a run that waits for a cluster is not under way; empty if the cluster is not the reason."""
    if _look(scheduler) == OUT_OF_REACH:
        return f"{_silence(scheduler)} Then resume this run; what it had saved is kept."
    return ""


def _silence(scheduler: str) -> str:
    return f"The scheduler {scheduler} does not answer: start it, as with `dask scheduler`, or correct its address."


def _client(scheduler: str) -> Any:
    from distributed import Client

    with _lock:
        client = _clients.get(scheduler)
        if client is None or client.status != "running":
            if client is not None:
                client.close(timeout=0)
            client = _clients[scheduler] = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        return client


def _look(scheduler: str) -> str:
    """How the scheduler is; asked every LOOK_SECONDS at most."""
    seen, found = _looks.get(scheduler, (-LOOK_SECONDS, IDLE))
    if time.monotonic() - seen < LOOK_SECONDS:
        return found
    try:
        found = AT_WORK if _client(scheduler).run_on_scheduler(_make_look(), PREFIX) else IDLE
    except (ImportError, *NO_ANSWER):
        found = OUT_OF_REACH
    _looks[scheduler] = (time.monotonic(), found)
    return found
