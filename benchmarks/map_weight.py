"""What the latent map weighs in Chromium: seconds and bytes until it is there, bytes of coming back, memory, leaks.

    python -m benchmarks.map_weight
    python -m benchmarks.map_weight --rounds 9 --switches 10 100

On a server that has shown the map before:
- opening: from asking for the address, as a visitor who was never here, until the map is painted; bytes that came over
  the websocket until then
- another page (its own content) and back, by the sidebar: bytes that come over the websocket meanwhile
- memory of the tab on an empty page, on a page of the app without a map, and with the map: a browser each. The private
  memory of the tab's process, and of the process that draws (it holds what WebGL does), after a garbage collection
- what is left after many switches from the map to another page and back: JavaScript heap, the same memory, nodes of the
  document, living WebGL contexts. Linux only.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, Page

from benchmarks.app_server import VIEWPORT, app_server, chromium, open_map, print_setting
from benchmarks.map_frames import MAPS
from benchmarks.report import print_table

MAP, OTHER = ("Latent map", ".latent-map[data-painted]"), ("Train", "text=Start")  # a page's name and what it shows
REST = 1000  # milliseconds before a look at memory
# A living context is one that was neither lost nor collected.
COUNT_CONTEXTS = """
(() => {
  const contexts = [], { getContext } = HTMLCanvasElement.prototype;
  HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    const context = getContext.call(this, kind, ...rest);
    if (context && kind.startsWith("webgl")) contexts.push(new WeakRef(context));
    return context;
  };
  window.countContexts = () => contexts.filter((each) => each.deref() && !each.deref().isContextLost()).length;
})();
"""


class Received:
    """Counts the bytes that come over the page's websockets from now on."""

    def __init__(self, page: Page) -> None:
        self.n_bytes = 0
        page.on("websocket", lambda socket: socket.on("framereceived", self._add))

    def _add(self, payload: str | bytes) -> None:
        self.n_bytes += len(payload)

    def take(self) -> float:
        """KB since the last time."""
        n_bytes, self.n_bytes = self.n_bytes, 0
        return n_bytes / 1000


def new_page(browser: Browser) -> Page:
    page = browser.new_context(viewport=VIEWPORT).new_page()
    page.add_init_script(COUNT_CONTEXTS)
    return page


def go(page: Page, name: str, shows: str) -> None:
    """By the sidebar."""
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    page.locator(shows).first.wait_for()


def opening(browser: Browser, url: str) -> tuple[float, float, float, float]:
    """Seconds and KB until the map is painted; KB of another page, and of coming back."""
    page = new_page(browser)
    received, begin = Received(page), time.perf_counter()
    page.goto(url)
    page.locator(MAP[1]).wait_for()
    seconds, opened = time.perf_counter() - begin, received.take()
    page.wait_for_timeout(REST)  # what follows the map
    received.take()
    kilobytes = []
    for place in (OTHER, MAP):
        go(page, *place)
        page.wait_for_timeout(REST)
        kilobytes.append(received.take())
    page.context.close()
    return seconds, opened, *kilobytes


def private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def memory(browser: Browser, page: Page) -> dict[str, float]:
    """After a garbage collection: `tab` and `drawing` (processes), `heap`, MB; `nodes` and `contexts`, counts."""
    page.wait_for_timeout(REST)
    devtools = page.context.new_cdp_session(page)
    for _ in range(2):
        devtools.send("HeapProfiler.collectGarbage")
        page.wait_for_timeout(REST)
    heap = devtools.send("Runtime.getHeapUsage")["usedSize"] / 1e6
    nodes = devtools.send("Memory.getDOMCounters")["nodes"]
    devtools.detach()
    system = browser.new_browser_cdp_session()
    processes = system.send("SystemInfo.getProcessInfo")["processInfo"]
    system.detach()
    sizes = [(process["type"], private_mb(process["id"])) for process in processes]
    return {
        "tab": max(size for kind, size in sizes if kind == "renderer"),  # the others wait for a page to come
        "drawing": sum(size for kind, size in sizes if kind == "GPU"),
        "heap": heap,
        "nodes": nodes,
        "contexts": page.evaluate("window.countContexts?.() ?? 0"),
    }


def memory_of(url: str, shows: str | None) -> dict[str, float]:
    """Of a browser with this page alone."""
    with chromium() as browser:
        page = new_page(browser)
        page.goto(url)
        if shows:
            page.locator(shows).first.wait_for()
        return memory(browser, page)


def memory_after(url: str, switches: list[int]) -> list[list[str]]:
    """A row after each number of switches from the map and back."""
    with chromium() as browser:
        page = new_page(browser)
        page.goto(url)
        page.locator(MAP[1]).wait_for()
        rows, done = [], 0
        for n in [1, *switches]:
            for _ in range(n - done):
                go(page, *OTHER)
                go(page, *MAP)
            done = n
            rows.append([str(n), *as_text(memory(browser, page))])
        return rows


def as_text(found: dict[str, float]) -> list[str]:
    digits = {"tab": 0, "drawing": 0, "heap": 1, "nodes": 0, "contexts": 0}
    return [f"{found[name]:,.{n}f}" for name, n in digits.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of opening (default 5)")
    parser.add_argument("--switches", type=int, nargs="+", default=[10, 50], help="to another page (default 10 50)")
    args = parser.parse_args()

    memory_header = ["tab, MB", "drawing process, MB", "JavaScript heap, MB", "nodes", "WebGL contexts"]
    with app_server() as server:
        urls = {name: f"{server.url}/latent_map?{query}" for name, query in MAPS.items()}
        with chromium() as browser:
            print_setting(browser)
            rows = []
            for name, url in urls.items():
                open_map(browser, url).context.close()  # warms the server
                seconds, *kilobytes = zip(*[opening(browser, url) for _ in range(args.rounds)], strict=True)
                each = ", ".join(f"{value:.2f}" for value in seconds)
                rows.append([name, f"{median(seconds):.2f}", each, *(f"{median(values):,.0f}" for values in kilobytes)])
            print_table(
                ["map", "opening, median, s", "each, s", "KB until painted", "KB of another page", "KB back"], rows
            )

        places = {"empty": ("about:blank", None), "/train": (f"{server.url}/train", OTHER[1])}
        places |= {name: (url, MAP[1]) for name, url in urls.items()}
        print_table(["page", *memory_header], [[name, *as_text(memory_of(*place))] for name, place in places.items()])
        print_table(["switches", *memory_header], memory_after(urls["10,000 points"], args.switches))


if __name__ == "__main__":
    main()
