"""From starting the server to the first painted map in Chromium.

    python -m benchmarks.startup
    python -m benchmarks.startup --rounds 5

Each round starts a new server process and asks it for `/` as soon as it answers, in a browser that is open but has
never seen the page. The files are in the system's cache, the models are not in memory. In seconds: until the server
answers at /_stcore/health, from there until the map is painted, and both together.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

from benchmarks.app_server import app_server, chromium, open_map, print_setting
from benchmarks.report import print_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="after one that warms the disk (default 3)")
    args = parser.parse_args()

    rounds = []
    with chromium() as browser:
        print_setting(browser)
        for _ in range(1 + args.rounds):
            with app_server() as server:
                page = open_map(browser, server.url)
                painted = time.perf_counter()
                page.context.close()
            rounds.append((server.answered - server.started, painted - server.answered, painted - server.started))
    rows = [[f"{seconds:.2f}" for seconds in times] for times in zip(*rounds[1:], strict=True)]
    parts = ["server answers", "map painted after that", "both together"]
    print_table(
        ["", "median, s", "each round, s"],
        [[part, f"{median(map(float, row)):.2f}", ", ".join(row)] for part, row in zip(parts, rows, strict=True)],
    )


if __name__ == "__main__":
    main()
