"""Code in README.md and docs/ runs as it stands: each ```python block in a namespace and a folder of its own.

A block that cannot run is fenced as ```python no-run REASON.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```python(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE)


def blocks() -> list[tuple[str, str, str]]:
    """(page:line, what follows ```python, code) of every block."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
            found.append((f"{page.relative_to(ROOT)}:{line}", match["info"].strip(), code))
    return found


RUNNING = [(place, code) for place, info, code in blocks() if not info]


@pytest.mark.parametrize(("place", "code"), RUNNING, ids=[place for place, _ in RUNNING])
def test_block_runs(place, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, place, "exec"), {"__name__": "__main__"})


def test_blocks_that_do_not_run_say_why():
    for place, info, _ in blocks():
        assert not info or re.fullmatch(r"no-run .{15,}", info), f"{place}: ```python no-run and a reason, or nothing"


def test_readme_shows_code_that_runs():
    assert any(place.startswith("README.md") for place, _ in RUNNING)
