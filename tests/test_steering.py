"""Steering a run: hold it, bend it, take it up again, put it away. What was asked happens, and nothing else does."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_MODEL, SMALL_TRAINING
from test_runs import ENDLESS, wait_until

from benchmarks.kills import open_everything, worker_pid
from vae import ConfigError, ModelConfig, checkpoint, runs, worker
from vae.checkpoint import SHIPPED_NAMES, SHIPPED_ROOT, CheckpointError, find, load_model, read_changes, read_config
from vae.film import read_film, read_live
from vae.processes import RunError, start_worker
from vae.train import Change, Record
from vae.worker import work

pytestmark = pytest.mark.usefixtures("checkpoints")


@pytest.fixture
def endless() -> Iterator[str]:
    """A run that goes on in a thread of this process until the test ends."""
    runs.create("endless", SMALL_MODEL, ENDLESS)
    thread = threading.Thread(target=lambda: list(work("endless")))
    thread.start()
    wait_until(lambda: len(runs.status("endless").records) > 3)
    yield "endless"
    if thread.is_alive():
        runs.request_stop("endless")
    thread.join(60)
    assert not thread.is_alive()


def last_step(name: str) -> int:
    return runs.status(name).records[-1].step


def weights_of(name: str) -> list[torch.Tensor]:
    return list(load_model(find(name)).state_dict().values())


def train(name: str) -> None:
    for _ in work(name):
        pass


# Hold


def test_pause_go_on_and_stop(endless):
    runs.pause(endless)
    wait_until(lambda: runs.status(endless).state == "paused")
    assert runs.status(endless).is_active
    assert "Paused after step" in runs.status(endless).message
    before = runs.status(endless).records
    time.sleep(0.3)
    assert runs.status(endless).records == before
    runs.go_on(endless)
    wait_until(lambda: last_step(endless) > before[-1].step + 20)
    assert runs.status(endless).state == "running"
    runs.pause(endless)
    wait_until(lambda: runs.status(endless).state == "paused")
    runs.request_stop(endless)  # also while it is paused
    wait_until(lambda: not runs.status(endless).is_active)
    assert runs.status(endless).state == "stopped"
    load_model(find(endless))


def test_one_batch_at_a_time(endless):
    runs.pause(endless)
    wait_until(lambda: runs.status(endless).state == "paused")
    step = int(runs.status(endless).message.split()[-1].rstrip(".").replace(",", ""))
    for i in range(1, 4):
        runs.do_one_batch(endless)
        wait_until(lambda i=i: f"step {step + i:,}." in runs.status(endless).message)
        assert last_step(endless) == step + i  # each has its point on the curve
        live = read_live(find(endless), SMALL_MODEL)
        assert live
        assert live.frame.step == step + i  # and its place on the map
    time.sleep(0.3)
    assert last_step(endless) == step + 3


def test_one_batch_of_a_running_run_pauses_it(endless):
    runs.do_one_batch(endless)
    wait_until(lambda: runs.status(endless).state == "paused")


def test_slow_motion(endless):
    runs.slow_down(endless, 0.1)
    wait_until(lambda: runs.read_control(find(endless)).delay == 0.1)
    time.sleep(0.3)
    before, frames = last_step(endless), len(read_film(find(endless)).frames)
    wait_until(lambda: last_step(endless) >= before + 5)
    records = [record for record in runs.status(endless).records if record.step >= before]
    assert [record.step for record in records] == list(range(before, records[-1].step + 1))  # every batch
    assert len(read_film(find(endless)).frames) != frames
    runs.slow_down(endless, 0.0)
    now = last_step(endless)
    wait_until(lambda: last_step(endless) > now + 30)


def test_time_in_a_pause_is_no_training_time(endless):
    runs.pause(endless)
    wait_until(lambda: runs.status(endless).state == "paused")
    started = time.monotonic()
    time.sleep(1.5)
    before = runs.status(endless).records[-1]
    runs.go_on(endless)
    wait_until(lambda: last_step(endless) > before.step)
    after = next(record for record in runs.status(endless).records if record.step > before.step)
    assert after.seconds - before.seconds < time.monotonic() - started - 1.4


def test_no_step_follows_a_stop():
    """It is looked for before each step; a look at the disk is a tenth of a second old at most."""
    runs.create("halted", SMALL_MODEL, ENDLESS)
    steps = []
    for record in work("halted"):
        steps.append(record.step)
        if len(steps) == 5:
            runs.request_stop("halted")
            time.sleep(2 * worker.LOOK_SECONDS)
    assert steps[-1] == steps[4]  # the last record is of the same step
    assert runs.status("halted").state == "stopped"


# Bend


def test_beta_and_learning_rate_change_under_way_and_are_written_down(endless):
    runs.set_beta(endless, 7.0)
    runs.set_learning_rate(endless, 1e-5)
    wait_until(lambda: len(runs.status(endless).changes) == 2)
    by_setting = {change.setting: change for change in runs.status(endless).changes}
    assert (by_setting["beta"].value, by_setting["learning_rate"].value) == (7.0, 1e-5)
    wait_until(lambda: last_step(endless) > by_setting["learning_rate"].step + 20)
    for record in runs.status(endless).records:
        assert record.beta == (7.0 if record.step > by_setting["beta"].step else 1.0)
        assert record.learning_rate <= (1e-5 if record.step > by_setting["learning_rate"].step else 2e-3)
    runs.set_beta(endless, 7.0)  # the same again is no change
    time.sleep(0.3)
    assert len(runs.status(endless).changes) == 2


@pytest.mark.parametrize(
    ("field", "ask"),
    [
        ("beta", lambda: runs.set_beta("small", -1.0)),
        ("beta", lambda: runs.set_beta("small", float("nan"))),
        ("learning_rate", lambda: runs.set_learning_rate("small", 0.0)),
        ("delay", lambda: runs.slow_down("small", 1e9)),
    ],
)
def test_what_can_not_be_asked(small, field, ask):
    with pytest.raises(ConfigError) as caught:
        ask()
    assert caught.value.field == field
    assert not (small / "control.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"stop": "yes"}', '{"stop": true}', "1" * 5000])
def test_a_control_file_that_can_not_be_read_asks_nothing(small, content):
    (small / "control.json").write_text(content)
    assert runs.read_control(small) == runs.Control()


# Take up again


def test_stopped_and_resumed_is_as_if_never_stopped():
    """Stopped in the middle of an epoch, with a change of beta before and after."""
    config = ModelConfig((1, 8, 8), "conv", (4, 8), (16,), 3)
    training = replace(SMALL_TRAINING, epochs=6, beta_schedule="warmup", warmup_epochs=4.0, free_bits=0.05)
    folder = runs.create("halved", config, training)
    for record in work("halved"):
        if record.step == 16:
            runs.set_beta("halved", 3.0)
            time.sleep(0.15)  # longer than the worker looks away
        if record.step == 32:
            runs.request_stop("halved")
            time.sleep(0.15)
    assert runs.status("halved").state == "stopped"
    assert not (folder / "live.safetensors").exists()
    runs.requeue("halved")
    for record in work("halved"):
        if record.step == 48:
            runs.set_learning_rate("halved", 1e-3)
            time.sleep(0.15)
    status = runs.status("halved")
    assert (status.state, [change.setting for change in status.changes]) == ("finished", ["beta", "learning_rate"])
    whole = runs.create("whole", config, training)
    for change in status.changes:
        runs.append_line(whole, change)
    train("whole")
    assert all(map(torch.equal, weights_of("halved"), weights_of("whole")))
    steps = [record.step for record in status.records]
    assert steps == sorted(steps)
    assert steps[-1] == 72
    film_steps = [frame.step for frame in read_film(folder).frames]
    assert film_steps == sorted(set(film_steps))
    assert film_steps[-1] == 72


def test_killed_at_random_moments_it_comes_out_the_same(monkeypatch):
    """benchmarks/kills.py does it thirty times; the moments differ each time."""
    monkeypatch.setenv("LATENTARIUM_THREADS", "1")
    training = replace(SMALL_TRAINING, epochs=150)
    folder = runs.start("killed", SMALL_MODEL, training)
    for i in range(3):
        before = len(runs.status("killed").records)
        wait_until(lambda before=before: len(runs.status("killed").records) > before and worker_pid("killed"))
        if i == 1:
            runs.set_beta("killed", 2.0)
        time.sleep(random.uniform(0.2, 1.0))
        pid = worker_pid("killed")
        if not pid:
            break  # a fast machine
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not runs.status("killed").is_active)
        assert runs.status("killed").state == "interrupted"
        open_everything("killed")
        runs.resume("killed")
    wait_until(lambda: not runs.status("killed").is_active)
    assert runs.status("killed").state == "finished"
    whole = runs.create("whole", SMALL_MODEL, training)
    for change in read_changes(folder):
        runs.append_line(whole, change)
    start_worker("work", "whole", whole)
    wait_until(lambda: not runs.status("whole").is_active)
    assert all(map(torch.equal, weights_of("killed"), weights_of("whole")))


@pytest.mark.parametrize("half", [False, True])
def test_a_finished_run_may_go_on(half):
    folder = runs.create("more", SMALL_MODEL, replace(SMALL_TRAINING, half=half))
    train("more")
    assert runs.status("more").state == "finished"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(sizes.values()) <= 3 * sizes["model.safetensors"] + 10_000_000
    before = runs.status("more").records
    runs.requeue("more", 5)
    train("more")
    status = runs.status("more")
    assert status.state == "finished"
    assert status.changes == [Change(24, 2.0, "epochs", 5.0)]
    assert status.records[: len(before)] == before
    assert status.records[-1].epoch == 5
    assert status.records[-1].held_out.loss < before[-1].held_out.loss
    assert read_config(folder)[1].epochs == 5


def test_what_can_not_go_on(small):
    with pytest.raises(ConfigError, match="is trained for 2 epochs already; give more"):
        runs.requeue("small")
    with pytest.raises(ConfigError, match="is trained for 2 epochs already; give more"):
        runs.requeue("small", 2)
    with pytest.raises(ConfigError, match="epochs: 0 was given"):
        runs.requeue("small", 0)
    (small / "resume.safetensors").unlink()
    with pytest.raises(RunError, match="start a new run from its settings"):
        runs.requeue("small", 9)
    assert runs.status("small").state == "finished"
    assert read_config(small)[1].epochs == 2


def test_a_run_goes_on_once(endless):
    with pytest.raises(RunError, match="is in training already"):
        runs.resume(endless)


def test_a_damaged_state_is_said_and_what_was_learnt_stays(small):
    (small / "resume.safetensors").write_bytes(b"no state")
    weights = (small / "model.safetensors").read_bytes()
    history = (small / "history.jsonl").read_bytes()
    runs.requeue("small", 9)
    with pytest.raises(CheckpointError, match=r"resume\.safetensors is damaged; start a new run from its settings"):
        train("small")
    assert runs.status("small").state == "failed"
    assert (small / "model.safetensors").read_bytes() == weights
    assert (small / "history.jsonl").read_bytes().startswith(history)


def test_a_history_that_was_cut_in_mid_line_goes_on_whole(small):
    path = small / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    n_whole = len(runs.status("small").records)
    runs.requeue("small", 4)
    train("small")
    records = runs.status("small").records
    assert [record.step for record in records[:n_whole]] == sorted({record.step for record in records[:n_whole]})
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert records[-1].epoch == 4


def test_a_clock_that_jumps_changes_nothing(monkeypatch):
    now = time.time
    jumps = iter([0, 86_400, -86_400, 3e9, -1e9] * 10_000)
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    runs.create("jumpy", SMALL_MODEL, SMALL_TRAINING)
    assert runs.status("jumpy").state == "queued"
    seconds = [record.seconds for record in work("jumpy")]
    assert runs.status("jumpy").state == "finished"
    assert seconds[0] >= 0
    assert seconds == sorted(seconds)
    assert seconds[-1] < 60


def test_a_folder_that_is_deleted_under_its_run(checkpoints):
    """It ends with a sentence, comes back nowhere, and the next run begins."""
    import shutil

    runs.create("doomed", SMALL_MODEL, ENDLESS)
    records = work("doomed")
    next(records)
    shutil.rmtree(checkpoints / "doomed")
    with pytest.raises(RunError, match="was deleted while"):
        for _ in records:
            pass
    assert not (checkpoints / "doomed").exists()
    runs.create("next", SMALL_MODEL, SMALL_TRAINING)
    train("next")
    assert runs.status("next").state == "finished"


# Queue


def test_first_come_first_served(monkeypatch):
    for name in ("a", "b", "c"):
        runs.create(name, SMALL_MODEL, SMALL_TRAINING)
    assert runs.active_runs() == ["c", "b", "a"]
    assert [runs.status(name).message for name in "abc"] == [
        "Its training process is starting.",
        "Waiting for its turn: 1 run is before it.",
        "Waiting for its turn: 2 runs are before it.",
    ]
    assert not runs.take_turn(find("b"))  # a was there before
    first = work("a")
    next(first)
    assert not runs.take_turn(find("b"))  # a has the only place
    monkeypatch.setenv("LATENTARIUM_RUNS", "2")
    assert not runs.take_turn(find("c"))  # b was there before
    second = work("b")
    next(second)
    assert not runs.take_turn(find("c"))  # both places are taken
    first.close()
    assert runs.take_turn(find("c"))
    second.close()


@pytest.mark.parametrize("text", ["0", "-1", "two", "65", "1.5"])
def test_a_number_of_runs_that_can_not_be(monkeypatch, text):
    monkeypatch.setenv("LATENTARIUM_RUNS", text)
    with pytest.raises(ConfigError, match="use a whole number from 1 to 64"):
        runs.create("one", SMALL_MODEL, SMALL_TRAINING)


def test_threads_are_a_setting_of_the_server(monkeypatch):
    assert worker._threads_of_machine() == max(1, (os.cpu_count() or 2) - 1)
    monkeypatch.setenv("LATENTARIUM_THREADS", "3")
    assert worker._threads_of_machine() == 3
    monkeypatch.setenv("LATENTARIUM_THREADS", "many")
    with pytest.raises(ConfigError, match="LATENTARIUM_THREADS"):
        worker._threads_of_machine()


# Put away


def test_rename(small, checkpoints):
    runs.rename("small", "other")
    assert not small.exists()
    assert runs.status("other").state == "finished"
    load_model(checkpoints / "other")
    for bad in ("a/b", "", "..", "mnist-2d", "other"):
        with pytest.raises(ConfigError):
            runs.rename("other", bad)
    with pytest.raises(CheckpointError):
        runs.rename("small", "third")


def test_delete(small, checkpoints):
    runs.delete("small")
    assert not small.exists()
    assert not [path for path in checkpoints.iterdir() if path.is_dir()]
    with pytest.raises(CheckpointError):
        runs.delete("small")


def test_what_is_at_work_or_ships_is_not_put_away(endless):
    for put_away in (runs.delete, lambda name: runs.rename(name, "other")):
        with pytest.raises(RunError, match="stop it first"):
            put_away(endless)
        with pytest.raises(RunError, match="ships with the program"):
            put_away("digits-2d")
    assert (SHIPPED_ROOT / "digits-2d").is_dir()


def test_a_damaged_run_can_be_deleted(small):
    (small / "run.json").write_bytes(b"{")
    (small / "config.json").write_bytes(b"{")
    assert next(run for run in runs.list_runs() if run.summary.name == "small").summary.problem
    runs.delete("small")
    assert not small.exists()


def test_the_list_of_runs_has_the_youngest_first(small):
    runs.create("young", SMALL_MODEL, SMALL_TRAINING)
    listed = runs.list_runs()
    assert [run.summary.name for run in listed] == ["young", small.name, *SHIPPED_NAMES]
    assert [run.state for run in listed] == ["queued", *["finished"] * (1 + len(SHIPPED_NAMES))]
    assert listed[1].summary.metrics.active_units == 2


def test_an_owner_is_kept(small):
    runs.create("mine", SMALL_MODEL, SMALL_TRAINING, owner="somebody")
    assert (runs.owner_of("mine"), runs.owner_of(small.name)) == ("somebody", "")


# Old and odd histories


def test_a_history_of_an_earlier_version_is_read(tmp_path):
    old = '{"step": 1, "n_steps": 9, "epoch": 0.1, "seconds": 1, "seconds_left": 2, "images_per_second": 3, '
    old += '"train": null, "held_out": null}'
    (tmp_path / "history.jsonl").write_text(old + '\n{"step": 2, "setting": "beta", "epoch": 1, "value": "x"}\n')
    assert checkpoint.read_history(tmp_path) == [Record(1, 9, 0.1, 1.0, 2.0, 3.0, None, None)]
    assert checkpoint.read_changes(tmp_path) == []


def test_settings_that_came_later_have_their_defaults(small):
    content = json.loads((small / "config.json").read_text())
    for settings in (content, content["training"]):
        for name in set(settings) - checkpoint.FIRST_SETTINGS - {"training"}:
            del settings[name]
    (small / "config.json").write_text(json.dumps(content))
    assert read_config(small)[1] == SMALL_TRAINING


def test_shipped_names_are_those_that_ship():
    import subprocess

    root = Path(__file__).parents[1]
    listed = subprocess.run(
        ["git", "ls-files", "checkpoints/*/config.json"], cwd=root, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    assert {Path(path).parent.name for path in listed} == set(SHIPPED_NAMES)


def test_after_a_rehearsal_torch_is_as_it_was():
    """A process that stood by may be asked to measure, which takes all threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        worker.rehearse()
        assert torch.get_num_threads() == 2
        assert (torch.tensor(1e-40) * 1).item() > 0  # such numbers count again
    finally:
        torch.set_num_threads(n_threads)
