"""What it costs a run to be watched, and a server that many watch it.

    python -m benchmarks.watching
    python -m benchmarks.watching --rounds 3 --seconds 10

Four figures, on real MNIST (784-512-256-2, one thread) and `digits`:
- first point: from pressing start to the first point of the curve on the page, `digits`, a server that is warm;
- cost: the speed of a run that is filmed, and watched by a page in Chromium on the same machine, as a share of that of
  a run that is neither, in alternating rounds; and of one that is filmed but not watched. All after the first seconds,
  in which there are more moments to see (film.EARLY_SECONDS);
- pointer, in these first seconds: pictures that the page decodes each second under a moving pointer, and how many
  moments of the run arrive each second;
- server: processor time of the app's server, as a share of one core, while ten sessions watch one run (websockets that
  say what a browser says; benchmarks/sessions.py explains them).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from benchmarks.app_server import VIEWPORT, AppServer, app_server, chromium, print_setting
from benchmarks.report import print_table
from vae import ModelConfig, TrainConfig, runs
from vae.film import EARLY_SECONDS
from vae.processes import start_worker

MODEL = ModelConfig((1, 28, 28))
TRAINING = TrainConfig("mnist", epochs=1000, device="cpu", threads=1)
INSTRUMENT = "document.querySelector('.instrument')?.instrument"
POINTER_SECONDS = 8.0
N_SESSIONS = 10
UNFILMED = """
import sys
from vae import worker
worker._Filming.offer = lambda *_, **__: None
for _ in worker.work(sys.argv[1]):
    pass
"""
MOVE_POINTER = """
async (seconds) => {
  const { map } = document.querySelector(".instrument").instrument;
  const canvas = document.querySelector(".instrument .over"), box = canvas.getBoundingClientRect();
  let pictures = 0, moments = 0;
  const { decodeShown, advance } = map;
  map.decodeShown = function () { pictures++; return decodeShown.call(this); };
  map.advance = function (...all) { moments++; return advance.apply(this, all); };
  const end = performance.now() + 1000 * seconds;
  await new Promise((done) => {
    const step = (now) => {
      const angle = now / 300;
      const place = { clientX: box.left + box.width * (0.5 + 0.3 * Math.cos(angle)),
        clientY: box.top + box.height * (0.5 + 0.3 * Math.sin(1.3 * angle)), bubbles: true, pointerId: 1,
        pointerType: "mouse", isPrimary: true };
      for (const type of ["pointerrawupdate", "pointermove"]) canvas.dispatchEvent(new PointerEvent(type, place));
      if (now < end) requestAnimationFrame(step);
      else done();
    };
    requestAnimationFrame(step);
  });
  Object.assign(map, { decodeShown, advance });
  return [pictures / seconds, moments / seconds];
}
"""


@contextmanager
def training(name: str, is_filmed: bool = True) -> Iterator[None]:
    """A run under way in a process of its own."""
    folder = runs.create(name, MODEL, TRAINING)
    if is_filmed:
        start_worker("work", name, folder)
    else:
        subprocess.Popen([sys.executable, "-c", UNFILMED, name])
    try:
        yield
    finally:
        runs.request_stop(name)
        while runs.status(name).is_active:
            time.sleep(0.1)


def speed(name: str, seconds: float) -> float:
    """Images a second, after the first seconds."""
    while not (records := runs.status(name).records) or records[-1].seconds < EARLY_SECONDS + 1:
        time.sleep(0.1)
    first = runs.status(name).records[-1]
    time.sleep(seconds)
    last = runs.status(name).records[-1]
    return (last.step - first.step) * TRAINING.batch_size / (last.seconds - first.seconds)


def first_point(browser: Browser, server: AppServer) -> float:
    """Seconds from the press to the first point."""
    page = browser.new_context(viewport=VIEWPORT).new_page()
    page.goto(f"{server.url}/train")
    button = page.get_by_role("button", name="Start training")
    button.wait_for()
    page.wait_for_timeout(12_000)  # the process that waits for work has been readied; people think about settings
    before = page.evaluate(f"{INSTRUMENT}.data.header.name")
    started = time.perf_counter()
    button.click()
    page.wait_for_function(
        f"{INSTRUMENT}?.data?.header.name !== '{before}' && {INSTRUMENT}?.data.history.length > 0", polling=10
    )
    seconds = time.perf_counter() - started
    page.get_by_text("Trained for").wait_for()
    page.context.close()
    return seconds


def watch(browser: Browser, server: AppServer, name: str) -> Page:
    page = browser.new_context(viewport=VIEWPORT).new_page()
    page.goto(f"{server.url}/train?run={name}")
    page.wait_for_function(f"{INSTRUMENT}?.map?.decoder")
    return page


async def sessions(server: AppServer, name: str, seconds: float) -> float:
    """The share of a core that the server takes while N_SESSIONS watch."""

    async def session(socket: ClientConnection) -> None:
        message = BackMsg(rerun_script=ClientState(page_name="train", query_string=f"run={name}"))
        await socket.send(message.SerializeToString())
        await watch_fragment(socket)

    opened = [
        await connect(f"ws://{server.address}/_stcore/stream", subprotocols=["streamlit"], max_size=None)
        for _ in range(N_SESSIONS)
    ]
    tasks = [asyncio.create_task(session(socket)) for socket in opened]
    await asyncio.sleep(8)
    before, started = processor_seconds(server.pid), time.perf_counter()
    await asyncio.sleep(seconds)
    share = (processor_seconds(server.pid) - before) / (time.perf_counter() - started)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*(socket.close() for socket in opened))
    return share


async def watch_fragment(socket: ClientConnection) -> None:
    """Renews the run's view as often as a browser does: at the interval that the server asks for."""
    state = ClientState(page_name="train")
    renewing: asyncio.Task | None = None

    async def renew(fragment_id: str, interval: float) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await asyncio.sleep(interval)
                state.fragment_id, state.is_auto_rerun = fragment_id, True
                await socket.send(BackMsg(rerun_script=state).SerializeToString())

    async for data in socket:
        message = ForwardMsg.FromString(data)
        kind = message.WhichOneof("type")
        if kind == "auto_rerun" and renewing is None:
            renewing = asyncio.create_task(renew(message.auto_rerun.fragment_id, message.auto_rerun.interval))
        elif kind == "delta" and message.metadata.active_script_hash:
            state.page_script_hash = message.metadata.active_script_hash
            if message.metadata.cacheable:
                state.cached_message_hashes.append(message.hash)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of the cost of watching (default 5)")
    parser.add_argument("--seconds", type=float, default=12, help="of each measurement (default 12)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        os.environ |= {"LATENTARIUM_CHECKPOINTS": root, "LATENTARIUM_THREADS": "1"}
        alone, filmed, watched, pictures, moments = [], [], [], [], []
        with app_server() as server:
            with chromium() as browser:
                print_setting(browser)
                points = [first_point(browser, server) for _ in range(3)]
                for i in range(args.rounds):
                    with training(f"alone-{i}", is_filmed=False):
                        alone.append(speed(f"alone-{i}", args.seconds))
                    with training(f"filmed-{i}"):
                        filmed.append(speed(f"filmed-{i}", args.seconds))
                    with training(f"watched-{i}"):
                        page = watch(browser, server, f"watched-{i}")
                        rates = page.evaluate(MOVE_POINTER, POINTER_SECONDS)
                        pictures.append(rates[0])
                        moments.append(rates[1])
                        watched.append(speed(f"watched-{i}", args.seconds))
                        page.context.close()
            with training("many"):
                share = asyncio.run(sessions(server, "many", args.seconds))
    print_table(
        ["first point, s", "images/s alone", "filmed", "filmed and watched", "pictures/s under the pointer",
         "moments/s", f"server, {N_SESSIONS} sessions, of one core"],
        [[f"{median(points):.2f}", f"{median(alone):,.0f}",
          f"{median(f / a for f, a in zip(filmed, alone, strict=True)):.2f}",
          f"{median(w / a for w, a in zip(watched, alone, strict=True)):.2f}",
          f"{min(pictures):.0f} to {max(pictures):.0f}", f"{median(moments):.1f}", f"{share:.0%}"]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
