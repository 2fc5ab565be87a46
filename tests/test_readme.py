"""The README is true: its commands parse, its Python runs, its files and pages are there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vae.__main__ import make_parser
from vae.families import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", re.findall(r"^\$ python -m vae (.+)$", README, re.MULTILINE))
def test_each_command_is_one_that_the_program_knows(line):
    assert make_parser().parse_args(shlex.split(line)).verb


def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    result = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Terms(" in result.stdout


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_each_link_leads_to_a_file(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", re.findall(r"^\| \*\*[^|]+\*\* `/(\w*)`", README, re.MULTILINE))
def test_each_page_is_there(path):
    assert (ROOT / "pages" / f"{path or 'home'}.py").is_file()


@pytest.mark.parametrize("command", re.findall(r"python -m (benchmarks\.\w+)", README))
def test_each_benchmark_is_there(command):
    assert (ROOT / (command.replace(".", "/") + ".py")).is_file()


def test_the_families_are_those_that_there_are():
    table = README.split("`--family` |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", table)) == set(FAMILIES)
