"""A run that is killed again and again, and a server that is: nothing is lost, and nothing comes out different.

    python -m benchmarks.kills
    python -m benchmarks.kills --kills 5 --servers 2

A run on `digits`, whose beta is changed on its way, is killed with SIGKILL at random moments and resumed each time;
then all that its folder holds is opened. Then the app's server is killed at random moments while another run goes
on, which it started and must not take along. At last both are compared with the same runs that were never killed: on a
CPU with one thread their weights are equal, bit for bit. Linux only: /proc tells which process works on a folder.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.app_server import app_server, chromium, print_setting
from benchmarks.report import print_table
from vae import ModelConfig, TrainConfig, runs
from vae.checkpoint import find, load_latents, load_model, read_changes, read_config, read_metrics
from vae.film import read_film
from vae.processes import warm_up

MODEL = ModelConfig((1, 8, 8), widths=(512, 256), latent_dim=3)
TRAINING = TrainConfig("digits", epochs=4000, device="cpu", threads=1)
LIFE = 4.0  # seconds that a run has at most before it is killed
PATIENCE = 600.0  # seconds after which something counts as lost


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} never came to pass")
        time.sleep(0.01)


def worker_pid(name: str) -> int:
    """The process that holds the lock of a run's folder; 0 if there is none."""
    inode = (find(name) / "worker.lock").stat().st_ino
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return next((int(lock[4]) for lock in locks if int(lock[5].split(":")[-1]) == inode), 0)


def open_everything(name: str) -> None:
    """Opens all files of a run's folder; raises if one can't be opened."""
    folder = find(name)
    read_config(folder)
    steps = [record.step for record in runs.status(name).records]
    if steps != sorted(set(steps)):
        raise RuntimeError(f"the history of {name} goes back: {steps}")
    if (folder / "model.safetensors").is_file():
        load_model(folder)
        load_latents(folder)
        read_metrics(folder)
    if not read_film(folder):
        raise RuntimeError(f"the film of {name} is gone")


def kill_run(name: str, n_kills: int, chance: random.Random) -> int:
    """Starts a run, kills and resumes it so often, and waits for its end. Returns how often it was killed."""
    folder = runs.start(name, MODEL, TRAINING)
    n_killed = 0
    while n_killed < n_kills:
        warm_up()
        wait_for(lambda: (folder / "worker.lock").exists() and worker_pid(name), "a worker")
        time.sleep(chance.uniform(0, LIFE))
        if n_killed in (5, 15):
            runs.set_beta(name, chance.uniform(0.5, 4))
        pid = worker_pid(name)
        if not pid:
            break  # it has finished
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not runs.status(name).is_active, "the end of a killed worker")
        n_killed += 1
        open_everything(name)
        runs.resume(name)
    wait_for(lambda: not runs.status(name).is_active, "the run's end")
    return n_killed


def kill_server(name: str, n_kills: int, chance: random.Random) -> int:
    """Presses start on the app's page, and kills server after server while the run goes on."""
    n_killed = 0
    for i in range(n_kills):
        with app_server() as server, chromium() as browser:
            page = browser.new_page()
            page.goto(f"{server.url}/train")
            if i == 0:
                page.get_by_label("Epochs").fill(str(TRAINING.epochs))
                page.get_by_label("Name").fill(name)
                page.get_by_role("button", name="Start training").click()
                wait_for(lambda: any(run.summary.name == name for run in runs.list_runs()), "the run")
                wait_for(lambda: read_film(find(name)), "its first frame")
            time.sleep(chance.uniform(0, LIFE))
            n_killed += runs.status(name).is_active
            os.kill(server.pid, signal.SIGKILL)
        open_everything_at_work(name)
    wait_for(lambda: not runs.status(name).is_active, "the run's end")
    return n_killed


def open_everything_at_work(name: str) -> None:
    if runs.status(name).state == "interrupted":
        raise RuntimeError(f"{name} died with the server")
    open_everything(name)


def is_as_if_never_killed(name: str) -> bool:
    """Trains the same once more, with the same changes at the same steps, and compares the weights."""
    model, training = read_config(find(name))
    folder = runs.create(f"{name}-whole", model, training)
    for change in read_changes(find(name)):
        runs.append_line(folder, change)
    runs.start_worker("work", f"{name}-whole", folder)
    wait_for(lambda: not runs.status(f"{name}-whole").is_active, "its end")
    ours, whole = (load_model(find(run)).state_dict() for run in (name, f"{name}-whole"))
    return all(map(torch.equal, ours.values(), whole.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="of the run (default 30)")
    parser.add_argument("--servers", type=int, default=30, help="kills of the server (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    print_setting()
    rows = []
    with tempfile.TemporaryDirectory() as root:
        os.environ |= {"LATENTARIUM_CHECKPOINTS": root, "LATENTARIUM_THREADS": "1"}
        for what, name, kill, n_kills in (
            ("the run's process", "run", kill_run, args.kills),
            ("the app's server", "server", kill_server, args.servers),
        ):
            if not n_kills:
                continue
            started = time.perf_counter()
            n_killed = kill(name, n_kills, chance)
            seconds = time.perf_counter() - started
            status = runs.status(name)
            if status.state != "finished":
                raise RuntimeError(status.message)
            rows.append([what, n_killed, len(status.changes), f"{seconds:.0f}", is_as_if_never_killed(name)])
    print_table(["killed", "times, while the run went on", "changes of beta", "seconds", "same weights"], rows)


if __name__ == "__main__":
    main()
