"""Runs on a Dask cluster, where LATENTARIUM_SCHEDULER names its scheduler. Dask is imported only then.

The workers see the same checkpoint folder; each run is a task that starts the same worker process as on one machine.
The tasks belong to nobody (`fire_and_forget`) and outlive the app; a Client's executor takes its tasks along when it
ends, so they are submitted without one.
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
KNOWN, UNKNOWN, ERRED, OUT_OF_REACH = "known", "unknown", "erred", "out of reach"

_lock = threading.Lock()
_clients: dict[str, Any] = {}
_looks: dict[tuple[str, str], tuple[float, str]] = {}  # (address, name): when it was looked up, and what was found


def address() -> str:
    """The scheduler's address, tcp://host:port; empty if runs train on this machine."""
    return os.environ.get("LATENTARIUM_SCHEDULER", "")


def submit(scheduler: str, name: str) -> None:
    """Hands a queued run to the cluster. Raises RunError if it can't be reached, or Dask is not installed."""
    try:
        from distributed import fire_and_forget

        client = _client(scheduler)
        with _lock:
            _looks.pop((scheduler, name), None)
        key = f"{_key(name)}-{time.time_ns()}"  # a task of its own each time it is taken up
        future = client.submit(_make_task(), name, str(checkpoint_root()), key=key, pure=False)
        fire_and_forget(future)
    except ImportError as error:
        raise RunError("LATENTARIUM_SCHEDULER is set, but Dask is missing: pip install distributed.") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise RunError(f"{_silence(scheduler)} Then try again, or unset LATENTARIUM_SCHEDULER.") from error


def _make_task() -> Callable[[str, str], None]:
    """What a cluster's worker does. Made here, inside a function, so that it travels whole: Dask names what can be
    imported, and a worker that was started as a command finds no `vae` to import."""

    def work_in_process(name: str, root: str) -> None:
        import os
        import subprocess
        import sys

        environment = os.environ | {"LATENTARIUM_CHECKPOINTS": root}
        environment.pop("LATENTARIUM_SCHEDULER", None)
        with open(os.path.join(root, name, "worker.log"), "ab") as log:
            # A process of its own, which goes on if the cluster does not.
            subprocess.run(
                [sys.executable, "-m", "vae", "work", name, "--now"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True, check=True,
            )  # fmt: skip

    return work_in_process


def _make_look() -> Callable[..., dict[str, str]]:
    """What is asked of the scheduler: the states of a run's tasks by key. It travels whole, as `_make_task` says."""

    def states_of(prefix: str, dask_scheduler: Any = None) -> dict[str, str]:
        # Keys are the prefix, a dash and digits; names of runs may hold dashes too.
        tasks = dask_scheduler.tasks.items()
        return {key: task.state for key, task in tasks if isinstance(key, str) and key.rpartition("-")[0] == prefix}

    return states_of


def knows(scheduler: str, name: str) -> bool:
    """Whether the scheduler has a queued run's task."""
    return _look(scheduler, name) == KNOWN


def problem(scheduler: str, name: str) -> str:
    """Why a run that was handed to a cluster is not under way; empty if the cluster is not the reason."""
    found = _look(scheduler, name)
    if found == OUT_OF_REACH:
        return f"{_silence(scheduler)} Then resume this run; what it had saved is kept."
    if found == ERRED:
        return "The cluster could not start this run; are its workers started in the project's folder?"
    return ""


def cancel(scheduler: str, name: str) -> None:
    """Takes a run that has not begun from the cluster, if it can be reached."""
    try:
        _client(scheduler).cancel(list(_states(scheduler, name)), force=True)
    except (ImportError, OSError, ValueError, RuntimeError):
        pass  # the run's control file stops it as soon as it begins


def _silence(scheduler: str) -> str:
    return f"The scheduler {scheduler} does not answer: start it, as with `dask scheduler`, or correct its address."


def _key(name: str) -> str:
    return f"latentarium-{name}"


def _client(scheduler: str) -> Any:
    from distributed import Client

    with _lock:
        client = _clients.get(scheduler)
        if client is None or client.status != "running":
            if client is not None:
                client.close(timeout=0)
            client = _clients[scheduler] = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
        return client


def _states(scheduler: str, name: str) -> dict[str, str]:
    return _client(scheduler).run_on_scheduler(_make_look(), prefix=_key(name))


def _look(scheduler: str, name: str) -> str:
    """What the scheduler knows of a run's task; asked every LOOK_SECONDS at most."""
    now = time.monotonic()
    seen, found = _looks.get((scheduler, name), (-LOOK_SECONDS, UNKNOWN))
    if now - seen < LOOK_SECONDS:
        return found
    try:
        states = _states(scheduler, name).values()
        alive = [state for state in states if state not in ("erred", "released", "forgotten")]
        found = KNOWN if alive else ERRED if states else UNKNOWN
    except (ImportError, OSError, ValueError, RuntimeError):
        found = OUT_OF_REACH
    _looks[scheduler, name] = (time.monotonic(), found)
    return found
