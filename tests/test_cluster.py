"""Runs on a Dask cluster: a real scheduler and two workers on this machine, as README starts them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import SMALL_MODEL, SMALL_TRAINING
from test_runs import ENDLESS, ROOT, wait_until

from vae import cluster, runs
from vae.checkpoint import find, load_model
from vae.processes import RunError

if shutil.which("dask", path=str(Path(sys.executable).parent)) is None:
    if os.environ.get("REQUIRE_DASK"):
        pytest.fail("Dask is not installed, and REQUIRE_DASK is set", pytrace=False)
    pytest.skip("Dask is optional and not installed: pip install distributed", allow_module_level=True)
pytestmark = pytest.mark.usefixtures("checkpoints")


@contextmanager
def dask(*arguments: str) -> Iterator[subprocess.Popen]:
    command = [str(Path(sys.executable).parent / "dask"), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def scheduler(checkpoints, monkeypatch) -> Iterator[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    monkeypatch.setenv("LATENTARIUM_SCHEDULER", address)
    monkeypatch.setattr(cluster, "LOOK_SECONDS", 0.2)
    options = ("--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    worker = ("worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory", str(checkpoints.parent))
    with dask("scheduler", *options) as process:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        with dask(*worker), dask(*worker):
            yield process
    for client in cluster._clients.values():
        client.close(timeout=1)
    cluster._clients.clear()


def test_runs_go_to_the_cluster(scheduler):
    """Two workers: two runs at a time; the third waits, and is taken back before it begins."""
    runs.start("first", SMALL_MODEL, ENDLESS)
    runs.start("second", SMALL_MODEL, ENDLESS)
    wait_until(lambda: all(len(runs.status(name).records) > 3 for name in ("first", "second")))
    third = runs.start("third", SMALL_MODEL, SMALL_TRAINING)
    time.sleep(1)
    assert runs.status("third").state == "queued"
    assert "2 runs are before it" in runs.status("third").message
    runs.request_stop("third")
    assert runs.status("third").state == "stopped"

    runs.pause("first")  # what is asked goes through the shared folder
    wait_until(lambda: runs.status("first").state == "paused")
    runs.request_stop("first")
    wait_until(lambda: not runs.status("first").is_active)
    assert runs.status("first").state == "stopped"
    load_model(find("first"))

    runs.resume("third")  # a place is free
    wait_until(lambda: not runs.status("third").is_active)
    assert runs.status("third").state == "finished", runs.status("third").message
    assert (third / "worker.log").read_text() == ""
    runs.request_stop("second")
    wait_until(lambda: not runs.status("second").is_active)

    runs.start("last", SMALL_MODEL, replace(SMALL_TRAINING, seed=1))
    wait_until(lambda: runs.status("last").state == "finished")

    # A scheduler that goes away: what is under way goes on, what waits says so and can be taken up again.
    for name in ("one", "two"):
        runs.start(name, SMALL_MODEL, ENDLESS)
    wait_until(lambda: all(len(runs.status(name).records) > 3 for name in ("one", "two")))
    runs.start("waiting", SMALL_MODEL, SMALL_TRAINING)
    scheduler.send_signal(signal.SIGKILL)
    scheduler.wait()
    wait_until(lambda: not runs.status("waiting").is_active)
    status = runs.status("waiting")
    assert status.state == "interrupted"
    assert "does not answer: start it, as with `dask scheduler`, or correct its address. Then resume" in status.message
    with pytest.raises(RunError, match="does not answer"):
        runs.resume("waiting")
    assert runs.status("waiting").state == "interrupted"
    step = runs.status("one").records[-1].step
    wait_until(lambda: runs.status("one").records[-1].step > step)
    for name in ("one", "two"):
        runs.request_stop(name)
        wait_until(lambda name=name: runs.status(name).state == "stopped")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "no address at all", "tcp://"])
def test_a_scheduler_that_is_down(checkpoints, monkeypatch, address):
    monkeypatch.setenv("LATENTARIUM_SCHEDULER", address)
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    with pytest.raises(RunError, match=r"The scheduler .* does not answer: .* unset LATENTARIUM_SCHEDULER"):
        runs.start("one", SMALL_MODEL, SMALL_TRAINING)
    assert not (checkpoints / "one").exists()  # the name is free


def test_without_dask(monkeypatch):
    monkeypatch.setenv("LATENTARIUM_SCHEDULER", "tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RunError, match="pip install distributed"):
        runs.start("one", SMALL_MODEL, SMALL_TRAINING)
