"""What every benchmark prints: the machine it ran on, and a Markdown table."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

import torch


def print_machine() -> None:
    """One line: absolute figures mean little without it."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        processor = names[0] if names else processor
    capability = torch.backends.cpu.get_cpu_capability()
    bf16 = "AMX bf16" if torch.cpu._is_amx_tile_supported() else "no AMX"
    print(
        f"{processor} ({capability}, {bf16}), {os.cpu_count()} cores, {torch.get_num_threads()} thread(s) used, "
        f"torch {torch.__version__}\n"
    )


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print("| " + " | ".join(header) + " |")
    print("| --- " * len(header) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)
