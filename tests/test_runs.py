"""Runs: real worker processes that outlive whoever started them, and what is left when something goes wrong."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL_MODEL, SMALL_TRAINING
from filelock import FileLock
from safetensors.torch import load as load_tensors

from vae import ConfigError, ModelConfig, checkpoint, data, embeddings, processes, runs, worker
from vae.checkpoint import CheckpointError, load_latents, load_model, read_history, read_metrics
from vae.data import DataError
from vae.latent import compute_tsne
from vae.runs import RunError, RunStatus
from vae.train import Training, TrainingError
from vae.worker import work

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.usefixtures("checkpoints")
KEPT = ("model.safetensors", "latents.safetensors", "metrics.json", "resume.safetensors")
ENDLESS = replace(SMALL_TRAINING, epochs=100_000)


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    """Polls; the deadline is only there to end a test that would hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.05)


@pytest.fixture
def workers(monkeypatch) -> Iterator[list[subprocess.Popen]]:
    """The worker processes that a test starts; none is left behind."""
    started: list[subprocess.Popen] = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    yield started
    for process in started:
        process.kill()
        process.wait()


def run_here(name: str) -> RunStatus:
    for _ in work(name):
        pass
    return runs.status(name)


# A run from start to end


def test_a_finished_run_is_a_checkpoint(small):
    status = runs.status("small")
    assert (status.state, status.is_active) == ("finished", False)
    assert status.message.startswith("Trained for 2 epochs in ")
    assert status.records == read_history(small)
    assert status.records[-1].step == status.records[-1].n_steps
    assert load_model(small).config == SMALL_MODEL
    assert read_metrics(small).epochs == 2
    assert not list(small.glob("*.tmp"))
    assert not list(small.glob(".*"))


def test_history_holds_the_records_that_were_yielded():
    folder = runs.create("one", SMALL_MODEL, SMALL_TRAINING)
    records = list(work("one"))
    assert read_history(folder) == records
    assert [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()] == list(
        map(asdict, records)
    )


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_every_kind_of_run_opens(network, half):
    config = ModelConfig((1, 8, 8), "conv", (4,), (16,), 3) if network == "conv" else replace(SMALL_MODEL, latent_dim=1)
    folder = runs.create("kind", config, replace(SMALL_TRAINING, epochs=1, half=half))
    assert run_here("kind").state == "finished"
    assert load_model(folder).config == config
    assert load_latents(folder).mu.shape == (300, config.latent_dim)


def test_a_run_in_a_process_of_its_own(checkpoints, workers):
    """Start, watch, queue, stop, as the app does it; the first is started by a process that is gone at once."""
    code = (
        "from vae import runs, ModelConfig, TrainConfig;"
        f"runs.start('first', ModelConfig(**{asdict(SMALL_MODEL)}), TrainConfig(**{asdict(ENDLESS)}))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=300)
    wait_until(lambda: len(runs.status("first").records) >= 3)
    assert runs.status("first").state == "running"
    assert runs.active_runs() == ["first"]

    second = runs.start("second", SMALL_MODEL, SMALL_TRAINING)
    wait_until(lambda: processes.is_locked(second / "worker.lock"))  # it is there, and waits
    assert runs.status("second").state == "queued"
    assert runs.active_runs() == ["second", "first"]  # the youngest first

    with pytest.raises(RunError, match="is in training"):
        embeddings.start_embedding("first", "tsne")

    runs.request_stop("first")
    wait_until(lambda: not runs.status("first").is_active)
    stopped = runs.status("first")
    assert stopped.state == "stopped"
    assert "what was learnt is kept" in stopped.message
    assert 0 < stopped.records[-1].step < stopped.records[-1].n_steps
    load_model(checkpoints / "first")
    assert read_metrics(checkpoints / "first").epochs == stopped.records[-1].epoch

    wait_until(lambda: not runs.status("second").is_active)
    assert runs.status("second").state == "finished"
    assert runs.active_runs() == []
    assert (second / "worker.log").read_text() == ""
    assert workers[0].wait(60) == 0


def test_a_worker_that_is_killed(workers):
    folder = runs.start("victim", SMALL_MODEL, ENDLESS)
    wait_until(lambda: len(runs.status("victim").records) >= 2)
    os.kill(workers[0].pid, signal.SIGKILL)
    workers[0].wait()
    status = runs.status("victim")
    assert status.state == "interrupted"
    assert status.message.startswith("The training process was ended from outside, as for want of memory")
    assert len(status.records) >= 2
    assert json.loads((folder / "run.json").read_text())["state"] == "running"  # it had no time to say more
    assert runs.active_runs() == []
    # Its place is free for the next one.
    runs.create("next", SMALL_MODEL, SMALL_TRAINING)
    assert run_here("next").state == "finished"


def test_a_worker_that_is_asked_to_end_keeps_what_was_learnt(workers):
    folder = runs.start("polite", SMALL_MODEL, ENDLESS)
    wait_until(lambda: len(runs.status("polite").records) >= 2)
    assert os.getsid(workers[0].pid) != os.getsid(0)  # Ctrl-C in the server's terminal does not reach it
    workers[0].terminate()
    assert workers[0].wait(60) == 0
    assert runs.status("polite").state == "stopped"
    load_model(folder)


def test_a_worker_that_cannot_start(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", fail)
    with pytest.raises(RunError, match="Cannot allocate memory"):
        runs.start("unborn", SMALL_MODEL, SMALL_TRAINING)
    assert "unborn" not in [run.summary.name for run in runs.list_runs()]  # the name is free


def test_a_worker_that_dies_before_it_can_say_why():
    folder = runs.create("mute", SMALL_MODEL, SMALL_TRAINING)
    assert runs.status("mute").state == "queued"  # its worker may still be importing torch
    (folder / "worker.log").write_text("Traceback ...\nImportError: libtorch.so: no such file\n")
    state = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(state | {"since": state["since"] - 2 * processes.START_SECONDS}))
    status = runs.status("mute")
    assert status.state == "interrupted"
    assert status.message.endswith("Its last word: ImportError: libtorch.so: no such file")


# Names and places


@pytest.mark.parametrize("name", ["", "..", "a/b", "/tmp/a"])
def test_a_name_that_cannot_be(checkpoints, name):
    with pytest.raises(ConfigError) as caught:
        runs.create(name, SMALL_MODEL, SMALL_TRAINING)
    assert caught.value.field == "name"
    assert not list(checkpoints.iterdir())


def test_a_name_that_is_taken(small, checkpoints):
    before = {path.name: path.read_bytes() for path in small.iterdir()}
    (checkpoints / "a-file").touch()
    (checkpoints / "a-link").symlink_to(checkpoints / "nowhere")
    for name in ("small", "a-file", "a-link"):
        with pytest.raises(ConfigError, match="exists already; choose another") as caught:
            runs.create(name, SMALL_MODEL, SMALL_TRAINING)
        assert caught.value.field == "name"
    assert {path.name: path.read_bytes() for path in small.iterdir()} == before


def test_a_name_that_ships(small, checkpoints, monkeypatch, tmp_path):
    """`small` would hide the shipped one."""
    monkeypatch.setattr(runs, "SHIPPED_ROOT", checkpoints)
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(tmp_path / "mine"))
    with pytest.raises(ConfigError, match="exists already"):
        runs.create(small.name, SMALL_MODEL, SMALL_TRAINING)


def test_of_two_who_want_a_name_one_gets_it(checkpoints, monkeypatch):
    """All pass the first look; the folder's rename decides."""
    all_have_looked = threading.Barrier(8)
    save_config = runs.save_config

    def save_when_all_have_looked(*args: object) -> None:
        all_have_looked.wait(60)
        save_config(*args)

    monkeypatch.setattr(runs, "save_config", save_when_all_have_looked)
    outcomes: list[object] = []

    def claim(seed: int) -> None:
        try:
            runs.create("wanted", SMALL_MODEL, replace(SMALL_TRAINING, seed=seed))
            outcomes.append(seed)
        except ConfigError as error:
            outcomes.append(error.field)

    threads = [threading.Thread(target=claim, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (outcome for outcome in outcomes if isinstance(outcome, int))
    assert outcomes.count("name") == 7
    assert {path.name for path in checkpoints.iterdir()} == {"wanted", ".queue.lock"}  # no scratch folder
    assert checkpoint.read_config(checkpoints / "wanted")[1].seed == winner


@pytest.mark.parametrize(
    ("field", "model", "training"),
    [
        ("batch_size", SMALL_MODEL, replace(SMALL_TRAINING, batch_size=1498)),
        ("dataset", SMALL_MODEL, replace(SMALL_TRAINING, dataset="imagenet")),
        ("objective", replace(SMALL_MODEL, latent="point"), SMALL_TRAINING),
        ("n_classes", replace(SMALL_MODEL, labels="given", n_classes=3), SMALL_TRAINING),
        ("left_out_class", SMALL_MODEL, replace(SMALL_TRAINING, left_out_class=10)),
        ("image_shape", replace(SMALL_MODEL, image_shape=(1, 28, 28)), SMALL_TRAINING),
        pytest.param("device", SMALL_MODEL, replace(SMALL_TRAINING, device="cuda"), marks=pytest.mark.skipif(
            torch.cuda.is_available(), reason="there is a CUDA device here")),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(checkpoints, field, model, training):
    with pytest.raises(ConfigError) as caught:
        runs.create("one", model, training)
    assert caught.value.field == field
    assert list(checkpoints.iterdir()) == []


def test_a_root_that_is_not_there_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(tmp_path / "deep" / "down"))
    assert runs.create("one", SMALL_MODEL, SMALL_TRAINING) == tmp_path / "deep" / "down" / "one"


def test_a_root_that_is_a_file(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(root))
        with pytest.raises(RunError, match="set LATENTARIUM_CHECKPOINTS to another folder"):
            runs.start("one", SMALL_MODEL, SMALL_TRAINING)
        assert runs.active_runs() == []


@pytest.fixture
def read_only(small, checkpoints) -> Iterator[Path]:
    """`small` and its root may be read, and not written, though the test may be root's. `left` was left in training."""
    left = Path(shutil.copytree(small, checkpoints / "left"))
    (left / "run.json").write_text('{"state": "running", "message": "", "since": 0}')
    places = [*checkpoints.parents][:3]  # pytest's own folders, which only their owner may enter
    modes = {place: place.stat().st_mode for place in places}
    for place in places:
        place.chmod(0o755)
    for folder in (checkpoints, small, left):
        folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield small
    os.seteuid(user)
    for place, mode in modes.items():
        place.chmod(mode)
    for folder in (checkpoints, small, left):
        folder.chmod(0o755)


def test_a_read_only_folder(read_only):
    assert runs.status("small").state == "finished"
    assert runs.status("left").state == "interrupted"
    assert embeddings.embedding_status("small") is None
    load_model(read_only)
    with pytest.raises(
        RunError, match=r"can't be written .* \(Permission denied\); make room there, or set LATENTARIUM"
    ):
        runs.start("another", SMALL_MODEL, SMALL_TRAINING)
    for impossible, *arguments in (
        (embeddings.start_embedding, "tsne"), (embeddings.work_embedding, "tsne"), (runs.request_stop,)
    ):  # fmt: skip
        with pytest.raises(RunError, match=r"can't be written \(Permission denied\)"):
            impossible("small", *arguments)


# What goes wrong on the way


@pytest.fixture
def saved_often(monkeypatch) -> None:
    """Saves at every epoch's end, not after the first five seconds."""
    keep, save = worker._Diary.keep, worker._Results.save

    def keep_all(diary, record) -> None:
        keep(diary, record)
        if record.held_out and record.step < record.n_steps:
            diary._save_state()
            save(diary.results)

    monkeypatch.setattr(worker._Diary, "keep", keep_all)


@pytest.mark.usefixtures("saved_often")
def test_a_loss_that_is_no_number(monkeypatch):
    """The first epoch is saved; then the learning rate jumps. What was saved stays."""
    folder = runs.create("wild", SMALL_MODEL, replace(SMALL_TRAINING, schedule="constant"))
    before: dict[str, bytes] = {}

    def watch() -> None:
        for record in work("wild"):
            if record.held_out and record.step:
                before.update({name: (folder / name).read_bytes() for name in KEPT})
                monkeypatch.setattr("vae.train.learning_rate_at", lambda *_: 1e6)

    with pytest.raises(TrainingError, match="use a lower learning rate"):
        watch()
    status = runs.status("wild")
    assert status.state == "failed"
    assert status.message.startswith("The loss stopped being a number by step ")
    assert before
    assert {name: (folder / name).read_bytes() for name in KEPT} == before
    load_model(folder)
    load_latents(folder)


@pytest.mark.parametrize("half", [False, True])
def test_weights_that_half_precision_cannot_hold(monkeypatch, half):
    """A mu of 1e6 makes a vast loss, and still a number; float16 ends at 65,504."""
    records = Training.records

    def far_out(training, *args):
        for record in records(training, *args):
            training.model.encoder[-1].bias.data[0] = 1e6
            yield record

    monkeypatch.setattr(Training, "records", far_out)
    folder = runs.create("huge", SMALL_MODEL, replace(SMALL_TRAINING, epochs=1, half=half))
    if not half:
        assert run_here("huge").state == "finished"
        assert load_latents(folder).mu.max() > 65504
        return
    with pytest.raises(TrainingError, match="or store it in full precision"):
        run_here("huge")
    assert runs.status("huge").state == "failed"
    assert not (folder / "model.safetensors").exists()


def test_data_that_cannot_be_had(monkeypatch):
    def fail(*_: object) -> None:
        raise DataError("MNIST could not be fetched.")

    monkeypatch.setattr(data, "load", fail)
    runs.create("offline", SMALL_MODEL, SMALL_TRAINING)
    with pytest.raises(DataError):
        run_here("offline")
    assert (runs.status("offline").state, runs.status("offline").message) == ("failed", "MNIST could not be fetched.")


def test_a_file_that_may_not_grow():
    """Beyond 4,000 bytes: the first record fits, the film does not."""
    folder = runs.create("full", SMALL_MODEL, replace(SMALL_TRAINING, epochs=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"can't be written \(File too large\); make room there and start again"):
            run_here("full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    status = runs.status("full")
    assert status.state == "failed"
    assert "make room there" in status.message
    assert len(status.records) == 1
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob(".*"))


@pytest.fixture
def small_disk(tmp_path, monkeypatch) -> Iterator[Path]:
    """A disk of 3 MB that holds the checkpoints."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("only root may mount a small disk")
    monkeypatch.setenv("LATENTARIUM_CHECKPOINTS", str(disk))
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fills_up_in_mid_run(small_disk, workers):
    """The run says so and keeps what it had; another run on the server goes on as if nothing had been."""
    folder = runs.start("full", SMALL_MODEL, ENDLESS)
    wait_until(lambda: (folder / "resume.safetensors").is_file())
    kept = (folder / "resume.safetensors").read_bytes()
    try:
        with open(small_disk / "ballast", "wb") as ballast:
            while ballast.write(bytes(1000)):
                ballast.flush()
    except OSError:
        pass  # now it is full
    wait_until(lambda: not runs.status("full").is_active)
    status = runs.status("full")
    assert (status.state, workers[0].wait(60)) == ("failed", 1)
    assert "can't be written (No space left on device); make room there" in status.message
    assert status.records
    assert not list(folder.glob("*.tmp"))
    assert load_tensors((folder / "resume.safetensors").read_bytes()).keys() == load_tensors(kept).keys()
    (small_disk / "ballast").unlink()
    last = status.records[-1].step
    runs.resume("full")  # there is room again
    wait_until(lambda: runs.status("full").records[-1].step > last + 100)
    runs.request_stop("full")
    wait_until(lambda: not runs.status("full").is_active)
    assert runs.status("full").state == "stopped"


def test_a_disk_that_has_no_room_for_the_last_word(monkeypatch):
    """It is written over the last but one, where that stands."""

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    folder = runs.create("mute", SMALL_MODEL, SMALL_TRAINING)
    records = work("mute")
    next(records)
    monkeypatch.setattr(processes, "write_json", fail)
    monkeypatch.setattr(worker, "append_line", fail)
    with pytest.raises(RunError, match="No space left on device"):
        next(records)
    assert runs.status("mute").state == "failed"
    assert "make room there" in runs.status("mute").message
    assert not (folder / "live.safetensors").exists()  # it was the first to go


def test_memory_that_is_used_up(monkeypatch):
    monkeypatch.setattr(Training, "records", lambda *_: iter([torch.empty(2**56)]))
    runs.create("vast", SMALL_MODEL, SMALL_TRAINING)
    with pytest.raises(RunError, match="use a smaller batch or network"):
        run_here("vast")
    assert runs.status("vast").state == "failed"


def test_a_slip_of_ours_is_told_and_not_hidden(monkeypatch):
    monkeypatch.setattr(Training, "records", lambda *_: iter([1 // 0]))
    runs.create("slip", SMALL_MODEL, SMALL_TRAINING)
    with pytest.raises(ZeroDivisionError):
        run_here("slip")
    assert runs.status("slip").state == "failed"
    assert "ZeroDivisionError" in runs.status("slip").message


@pytest.mark.parametrize("leave", [lambda records: records.close(), lambda records: records.throw(KeyboardInterrupt)])
def test_whoever_watches_may_go_away(checkpoints, leave):
    folder = runs.create("left", SMALL_MODEL, SMALL_TRAINING)
    records = work("left")
    next(records)
    assert runs.status("left").state == "running"
    try:
        leave(records)
    except KeyboardInterrupt:
        pass
    assert runs.status("left").state == "interrupted"
    assert runs.status("left").message == "Interrupted; what had been saved is kept."
    with FileLock(folder / "worker.lock", timeout=0), FileLock(checkpoints / ".queue.lock", timeout=0):
        pass  # both are free


def test_stop_before_its_turn():
    folder = runs.create("waiting", SMALL_MODEL, SMALL_TRAINING)
    runs.request_stop("waiting")
    assert run_here("waiting").state == "stopped"
    assert not (folder / "model.safetensors").exists()


def test_stop_while_another_runs():
    """The first holds the only place: it is paused. The second is stopped while it waits."""
    runs.create("first", SMALL_MODEL, ENDLESS)
    runs.create("second", SMALL_MODEL, SMALL_TRAINING)
    first = work("first")
    next(first)
    stop = threading.Timer(0.5, runs.request_stop, ["second"])
    stop.start()
    assert run_here("second").message == "Stopped before it began."
    stop.join()
    first.close()


def test_a_run_is_worked_on_once(small):
    before = {path.name: path.read_bytes() for path in small.iterdir()}
    with pytest.raises(RunError, match="has been trained already"):
        run_here("small")
    assert {path.name: path.read_bytes() for path in small.iterdir()} == before


def test_a_run_has_one_worker():
    folder = runs.create("one", SMALL_MODEL, SMALL_TRAINING)
    with FileLock(folder / "worker.lock"):
        with pytest.raises(RunError, match=r"works on .* already"):
            run_here("one")
        assert runs.status("one").state == "queued"


# Reading a run while it is written


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"state": "flying"}', b'{"state": ["running"]}', b'{"state": {}}', b'{"state": null}'],
)
def test_a_damaged_state(small, content):
    (small / "run.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.json"):
        runs.status("small")
    assert runs.active_runs() == []


@pytest.mark.parametrize("when", ['"noon"', "null", "NaN", "1e999", "-1e999", "1" + 400 * "0", "0", "[]"])
@pytest.mark.parametrize("state", ["queued", "running"])
def test_an_active_state_that_nobody_works_on(small, state, when):
    (small / "run.json").write_text(f'{{"state": "{state}", "message": "", "since": {when}}}')
    assert runs.status("small").state == "interrupted"
    assert "what it had saved is kept" in runs.status("small").message


def test_a_checkpoint_without_its_run(small):
    for name in ("run.json", "history.jsonl", "worker.lock"):
        (small / name).unlink()
    assert (runs.status("small").state, runs.status("small").records) == ("finished", [])
    assert not (small / "worker.lock").exists()  # it was only read


def test_the_last_word_is_never_missed(small, monkeypatch):
    """A worker that ends between the two looks at its state and its lock is not taken for dead."""
    final = (small / "run.json").read_bytes()
    (small / "run.json").write_text('{"state": "running", "message": "Training.", "since": 0}')
    is_locked = processes.is_locked

    def ends_meanwhile(lock_path: Path) -> bool:
        (small / "run.json").write_bytes(final)
        return is_locked(lock_path)

    monkeypatch.setattr(processes, "is_locked", ends_meanwhile)
    assert runs.status("small").state == "finished"


# t-SNE


def test_a_tsne_is_kept_with_its_checkpoint(small, workers):
    before = load_latents(small)
    assert before.embeddings == {}
    assert embeddings.embedding_status("small") is None
    embeddings.start_embedding("small", "tsne")
    job = embeddings.embedding_status("small")
    assert job
    assert job.state == "running"
    embeddings.start_embedding("small", "tsne")  # asked for twice, done once
    assert len(workers) == 1
    wait_until(lambda: not (job := embeddings.embedding_status("small")) or job.state != "running")
    assert embeddings.embedding_status("small") is None
    after = load_latents(small)
    assert torch.equal(after.mu, before.mu)
    assert torch.equal(after.embeddings["tsne"], compute_tsne(before.mu))
    assert (small / "worker.log").read_text().count("Traceback") == 0


@pytest.mark.usefixtures("small")
def test_a_tsne_reports_its_progress():
    fractions = []
    embeddings.work_embedding(
        "small", "tsne", lambda *_: fractions.append(embeddings.embedding_status("small").fraction)
    )
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert embeddings.embedding_status("small") is None


def test_a_tsne_that_is_killed(small):
    (small / "embedding.json").write_text(
        '{"kind": "tsne", "state": "running", "message": "", "done": 10, "total": 750, "since": 0}'
    )
    job = embeddings.embedding_status("small")
    assert (job.state, job.message, job.fraction) == ("failed", "The t-SNE ended before it was done.", 0)
    embeddings.work_embedding("small", "tsne")  # may be tried again
    assert embeddings.embedding_status("small") is None


def test_a_tsne_of_a_damaged_checkpoint(small):
    (small / "latents.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        embeddings.work_embedding("small", "tsne")
    job = embeddings.embedding_status("small")
    assert job.state == "failed"
    assert "latents.safetensors" in job.message


def test_a_tsne_of_a_collapsed_model(small):
    latents = load_latents(small)
    checkpoint.save_latents(small, replace(latents, mu=torch.zeros(300, 2)), half=False)
    with pytest.raises(RunError, match="all codes are the same"):
        embeddings.work_embedding("small", "tsne")
    assert "all codes are the same" in embeddings.embedding_status("small").message


def test_a_tsne_on_a_full_disk(small, monkeypatch):
    before = (small / "latents.safetensors").read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embeddings, "save_latents", fail)
    with pytest.raises(RunError, match="No space left on device"):
        embeddings.work_embedding("small", "tsne")
    assert (small / "latents.safetensors").read_bytes() == before
    assert embeddings.embedding_status("small").state == "failed"


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"state": "running"}',
                                     b'{"state": "failed", "message": "", "done": 1, "total": 0}',
                                     b'{"state": "failed", "message": "", "done": "1", "total": 2}'])  # fmt: skip
def test_a_damaged_tsne_state_counts_as_none(small, content):
    (small / "embedding.json").write_bytes(content)
    assert embeddings.embedding_status("small") is None
