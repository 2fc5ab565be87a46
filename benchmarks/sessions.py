"""A class on one server: 30 visitors of the latent map, each clicking every 2 seconds.

    python -m benchmarks.sessions
    python -m benchmarks.sessions --visitors 10 --seconds 60

Each visitor is a websocket that says what a browser says (Streamlit's own messages, as captured from Chromium): it
opens the page, then clicks at random spots. Measured are the milliseconds from sending a click to receiving the message
with the pictures of the spot's neighbours (the decoded picture itself the browser makes, and asks nobody), and the
server's resident memory: before (one visitor has been and gone, so that model and libraries are loaded), with all
connected, and after all their clicks, still connected. The visitors run on the server's own processor, as a class of
real browsers would not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ClientState_pb2 import ClientState
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

from benchmarks.app_server import AppServer, app_server, p50_p95, print_setting
from benchmarks.report import print_table

CLICK_INTERVAL = 2.0  # seconds
PICTURE = b'alt="Neighbour 1'


class Visitor:
    """One browser tab, as the server sees it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.tab = ClientState(page_name="latent_map", query_string="model=mnist-2d")  # sent whole with each message
        self.trigger_id = ""  # where the map's component reports a click

    async def open(self) -> None:
        await self.socket.send(BackMsg(rerun_script=self.tab).SerializeToString())
        await self._until(ForwardMsg.FINISHED_SUCCESSFULLY)
        if not self.trigger_id:
            raise RuntimeError("the page has come without a map")

    async def click(self, x: float, y: float) -> float:
        """Milliseconds until the new picture is here; returns when the page is complete."""
        message = BackMsg(rerun_script=self.tab)
        message.rerun_script.widget_states.widgets.add(
            id=self.trigger_id, json_trigger_value=json.dumps([{"event": "click", "value": {"x": x, "y": y}}])
        )
        started = time.perf_counter()
        await self.socket.send(message.SerializeToString())
        arrived = await self._until(ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)
        return 1000 * (arrived - started)

    async def _until(self, finished: ForwardMsg.ScriptFinishedStatus) -> float:
        """Receives messages until the run has ended; returns when the picture came, in seconds of perf_counter."""
        arrived = 0.0
        async for data in self.socket:
            if PICTURE in data:
                arrived = time.perf_counter()
            message = ForwardMsg.FromString(data)
            if message.WhichOneof("type") == "script_finished" and message.script_finished == finished:
                return arrived
            self._remember(message)
        raise ConnectionError("the server has closed the connection")

    def _remember(self, message: ForwardMsg) -> None:
        """What a tab keeps and sends back: the values of the select boxes, which page and fragment the map is in, and
        the large messages that it holds, which the server then need not repeat.
        """
        element = message.delta.new_element
        if element.HasField("selectbox"):
            box = element.selectbox
            self.tab.widget_states.widgets.add(id=box.id, string_value=box.options[box.default])
        elif element.HasField("bidi_component"):
            self.trigger_id = f"$$STREAMLIT_INTERNAL_KEY_{element.bidi_component.id}__events"
            self.tab.page_script_hash = message.metadata.active_script_hash
            self.tab.fragment_id = message.delta.fragment_id
            self.tab.cached_message_hashes.append(message.hash)


async def connect_visitor(server: AppServer) -> Visitor:
    socket = await connect(f"ws://{server.address}/_stcore/stream", subprotocols=["streamlit"], max_size=None)
    visitor = Visitor(socket)
    await visitor.open()
    return visitor


async def keep_clicking(visitor: Visitor, seconds: float, seed: int) -> list[float]:
    chance = random.Random(seed)
    begin = time.perf_counter() + chance.uniform(0, CLICK_INTERVAL)  # people do not click in step
    times = []
    for i in range(int(seconds / CLICK_INTERVAL)):
        await asyncio.sleep(max(0, begin + i * CLICK_INTERVAL - time.perf_counter()))
        times.append(await visitor.click(chance.uniform(-3, 3), chance.uniform(-3, 3)))
    return times


async def measure(server: AppServer, n_visitors: int, seconds: float) -> None:
    first = await connect_visitor(server)
    await keep_clicking(first, 3 * CLICK_INTERVAL, seed=0)
    await first.socket.close()
    before = server.memory_mb()

    visitors = await asyncio.gather(*(connect_visitor(server) for _ in range(n_visitors)))
    connected = server.memory_mb()
    times = await asyncio.gather(*(keep_clicking(visitor, seconds, seed) for seed, visitor in enumerate(visitors)))
    after = server.memory_mb()
    await asyncio.gather(*(visitor.socket.close() for visitor in visitors))

    p50, p95 = p50_p95([time for visitor_times in times for time in visitor_times])
    n_clicks = sum(map(len, times))
    memory = f"{before:.0f}, {connected:.0f}, {after:.0f}"
    print_table(
        ["visitors", "clicks", "click to answer, p50 (p95) ms", "memory before, connected, after, MB", "MB each"],
        [[n_visitors, n_clicks, f"{p50:.0f} ({p95:.0f})", memory, f"{(after - before) / n_visitors:.2f}"]],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=30, help="default 30")
    parser.add_argument("--seconds", type=float, default=30, help="how long they click (default 30)")
    args = parser.parse_args()

    with app_server() as server:
        print_setting()
        asyncio.run(measure(server, args.visitors, args.seconds))


if __name__ == "__main__":
    main()
