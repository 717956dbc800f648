"""Every public name has an entry in the documentation, and every entry a public name."""

import re
from pathlib import Path

import pytest
from test_api_surface import ROOMS, public_names

DOCS = Path(__file__).resolve().parent.parent / "docs"
ENTRIES = {
    entry
    for page in DOCS.rglob("*.md")
    for entry in re.findall(r"^::: (kdinpaint[\w.]*)", page.read_text(encoding="utf-8"), re.MULTILINE)
}
TOP = set(public_names("kdinpaint"))
# What is importable from kdinpaint is documented under that name, the rest under its room's.
WANTED = {f"kdinpaint.{n}" for n in TOP} | {
    f"{room}.{n}" for room in ROOMS[1:] for n in public_names(room) if n not in TOP
}


@pytest.mark.parametrize("name", sorted(WANTED))
def test_is_documented(name):
    assert name in ENTRIES, f"write '::: {name}' on a page under docs/"


def test_no_entry_points_nowhere():
    assert not ENTRIES - WANTED, "documented, but not public"
