"""The rooms have one-way doors: app.py -> pages/ -> pages/ui/ -> vae/, and nobody imports a page."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "vae").rglob("*.py"))
SHARED = sorted((ROOT / "pages" / "ui").rglob("*.py"))
PAGES = sorted((ROOT / "pages").glob("*.py"))
APP = [path for path in [ROOT / "app.py"] if path.exists()]
CORE_NEVER_IMPORTS = ("streamlit", "plotly", "pages", "app")


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: `from a.b import c` gives a.b.c."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import starts from the file's own package.
            package = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*package, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("__import__", "import_module"):
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


def starts_with(name: str, module: str) -> bool:
    return name == module or name.startswith(module + ".")


def named(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=[path.relative_to(ROOT).as_posix() for path in paths])


def test_imports_are_seen_wherever_they_hide(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "pages" / "a.py"
    path.parent.mkdir()
    path.write_text(
        "import torch.nn as nn\n"
        "from pages.ui import frame\n"
        "from . import b\n"
        "def f():\n    from ..vae.data import load\n    importlib.import_module('plotly')\n"
    )
    assert sorted(imports(path)) == ["pages.b", "pages.ui.frame", "plotly", "torch.nn", "vae.data.load"]


@named(CORE)
def test_the_core_knows_of_no_user_interface(path):
    assert not [name for name in imports(path) if any(starts_with(name, wrong) for wrong in CORE_NEVER_IMPORTS)]


@named([*CORE, *SHARED, *PAGES, *APP])
def test_nobody_imports_a_page(path):
    pages = [f"pages.{page.stem}" for page in PAGES if page.stem != "__init__"]
    assert not [name for name in imports(path) if any(starts_with(name, page) for page in pages)]
    assert not [name for name in imports(path) if starts_with(name, "app")]


@named([*PAGES, *APP])
def test_a_page_computes_nothing_itself(path):
    """A page that imports torch or numpy probably holds a function that belongs in vae/."""
    assert not [name for name in imports(path) if any(starts_with(name, wrong) for wrong in ("torch", "numpy"))]


def test_the_core_loads_no_user_interface():
    """Nor does anything that it imports; and the slow imports wait until they are needed."""
    code = (
        "import sys, vae, vae.runs, vae.evaluate, vae.pictures; "
        "print([name for name in ('streamlit', 'plotly', 'sklearn', 'openTSNE', 'torchvision') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    assert done.stdout.strip() == "[]"
