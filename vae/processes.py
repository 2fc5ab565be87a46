"""Worker processes and the folders that they write: start one, mark a folder as worked on, tell whether anyone works.

A worker outlives whoever started it. It holds a lock in its folder, which the system lifts when it dies, however it
dies: so anybody can tell a worker at work from one that is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from vae.checkpoint import CheckpointError, read_json, write_json
from vae.config import ConfigError
from vae.data import DataError
from vae.film import LIVE_FILE
from vae.train import TrainingError

ACTIVE_STATES = ("queued", "preparing", "running", "paused")
START_SECONDS = 60  # that a new worker may take to import torch and lock its folder, on a slow machine


class RunError(RuntimeError):
    """Work that can't be started or went wrong; the message says why, and what to do."""


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
KEPT_BYTES, LARGEST_KEPT_BLOCK = 256 * 1024**2, 32 * 1024**2  # glibc takes no larger block


def keep_freed_memory() -> None:
    """On Linux, this process keeps up to KEPT_BYTES that it has freed for what it asks for next.

    Else each tensor of a few megabytes may be fresh pages from the system, which took up to a third of the time of a
    likelihood with 5,000 samples.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK)


# Starting


_spare: subprocess.Popen | None = None  # has imported everything, and waits to be told what to do
_spare_lock = threading.Lock()


def start_worker(verb: str, name: str, folder: Path) -> None:
    """Starts `python -m vae VERB NAME` in a process of its own, with what it prints in the folder's worker.log.

    Raises OSError if there can be none.
    """
    order = {"arguments": [verb, name], "log": str(folder / "worker.log"), "environment": _own_settings()}
    message = (json.dumps(order) + "\n").encode()
    (folder / "worker.log").open("ab").close()  # a folder that can't be written is told now
    process = _take_spare()
    try:
        _send(process, message)
    except OSError:  # it was killed meanwhile
        _send(_new_process(), message)


def warm_up() -> None:
    """Readies a process for the next work: torch takes seconds to import, and whoever presses a button waits."""
    global _spare
    with _spare_lock:
        if _spare is None or _spare.poll() is not None:
            _spare = _new_process()


def _take_spare() -> subprocess.Popen:
    global _spare
    with _spare_lock:
        process, _spare = _spare, None
    return process if process and process.poll() is None else _new_process()


def _new_process() -> subprocess.Popen:
    package_root = Path(__file__).resolve().parent.parent
    paths = [str(package_root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        [sys.executable, "-m", "vae", "stand-by"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        start_new_session=True,
    )


def _send(process: subprocess.Popen, message: bytes) -> None:
    assert process.stdin
    with process.stdin:
        process.stdin.write(message)


def _own_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("LATENTARIUM_")}


def stand_by() -> list[str]:
    """In a process that `start_worker` made: waits for its order and returns the arguments, none if nobody wants it."""
    line = sys.stdin.readline()
    if not line:
        return []
    order = json.loads(line)
    print_to(Path(order["log"]))
    for name in _own_settings():
        del os.environ[name]
    os.environ.update(order["environment"])
    return order["arguments"]


def print_to(log_path: Path) -> None:
    """From now on, what this process prints goes there."""
    log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    os.close(log)


# Whether anyone works


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Marks a folder as worked on, as long as this process lives. Raises RunError if another one works on it."""
    lock = FileLock(path, timeout=1)  # whoever asks whether a worker lives holds it for a moment
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(f"Another process works on {path.parent} already; wait until it is done.") from error
    except OSError as error:
        raise RunError(unwritable(path.parent, error)) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # where nobody can write, nobody works


def state_of(state: str, message: str, **more: Any) -> dict[str, Any]:
    """What a state file holds. `since` is the system's uptime, which goes on evenly when the clock is set."""
    return {"state": state, "message": message, "since": time.monotonic(), **more}


def read_work(state_path: Path, lock_path: Path, is_expected: Callable[[dict], bool]) -> dict[str, Any]:
    """What a worker wrote of its state; `interrupted` without a message if that worker is gone.

    is_expected: whether queued work, which nobody has locked yet, will have its worker.
    """
    content = read_json(state_path)
    state = content.get("state")
    if state not in ACTIVE_STATES or is_locked(lock_path) or (state == "queued" and is_expected(content)):
        return content
    # A worker writes its last state before it lets go of the lock: it may have done both since the first look.
    if read_json(state_path) != content:
        return read_work(state_path, lock_path, is_expected)
    return content | {"state": "interrupted", "message": ""}


def is_starting(content: dict[str, Any]) -> bool:
    """Whether a worker that was just started may not have got as far as its lock."""
    now, since = time.monotonic(), content.get("since")
    return isinstance(since, int | float) and now - START_SECONDS < since <= now


def last_line(folder: Path) -> str:
    """What the worker said last, for work that ended in a way it could not record itself."""
    try:
        lines = (folder / "worker.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" Its last word: {lines[-1][:300]}" if lines else ""


# What goes wrong


@contextmanager
def recorded(state_path: Path, state_now: Callable[[str, str], dict[str, Any]]) -> Iterator[None]:
    """Writes what goes wrong inside into the state file, as a sentence for people, and raises it as such.

    state_now: what the state file shall hold, of a state and a sentence.
    """
    try:
        yield
    except (GeneratorExit, KeyboardInterrupt):  # whoever watched the work went away
        _write_last(state_path, state_now("interrupted", "Interrupted; what had been saved is kept."))
        raise
    except Exception as error:
        sentence = _explain(error, state_path.parent)
        _write_last(state_path, state_now("failed", sentence or f"The worker failed: {error!r}"))
        if sentence is None or sentence == str(error):
            raise
        raise RunError(sentence) from error


def _explain(error: Exception, folder: Path) -> str | None:
    """The sentence for an error that people can do something about; None for a slip of ours."""
    if isinstance(error, DataError | TrainingError | ConfigError | CheckpointError | RunError):
        return str(error)
    if isinstance(error, OSError):
        return unwritable(folder, error)
    # On a CPU torch raises a plain RuntimeError.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "The memory is used up; use a smaller batch or network."
    return None


def _write_last(path: Path, content: dict[str, Any]) -> None:
    """A last word, also on a full disk: there, room is made, or the old word is overwritten where it stands."""
    try:
        (path.parent / LIVE_FILE).unlink(missing_ok=True)  # of work that has ended; and it is large
        write_json(path, content)
    except OSError:
        try:
            with open(path, "r+b") as file:
                file.write(json.dumps(content).encode())
                file.truncate()
        except OSError:
            pass  # no room even for that, or no folder: whoever reads finds the worker gone, and says so


def unwritable(folder: Path, error: OSError) -> str:
    if not folder.is_dir():
        return f"{folder} was deleted while it was written; start the work again under another name."
    return f"{folder} can't be written ({error.strerror}); make room there and start again. What was saved is kept."
