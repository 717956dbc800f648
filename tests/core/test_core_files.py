"""Atomic writing: the old file or the new one, never half of one, and nothing left beside it."""

import os
import stat

import pytest

from kdinpaint._core.errors import OutputError
from kdinpaint._core.files import atomic_path, clear_leftovers, make_folder, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_makes_parents(tmp_path):
    path = tmp_path / "a" / "b" / "result.json"
    write_text(path, "é")
    assert path.read_bytes() == "é".encode()
    assert names(path.parent) == ["result.json"]


def test_temporary_file_has_the_ending_and_folder_of_the_target(tmp_path):
    with atomic_path(tmp_path / "x.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        assert not (tmp_path / "x.png").exists()
        temporary.write_text("new")
    assert names(tmp_path) == ["x.png"]


def test_respects_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_alone(tmp_path, error):
    write_text(tmp_path / "x", "old")

    def write():
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_no_space_says_so_and_leaves_the_old_file_alone(tmp_path):
    write_text(tmp_path / "x", "old")
    with (
        pytest.raises(OutputError, match=r"cannot write .*x: No space left on device.*Earlier files are untouched"),
        atomic_path(tmp_path / "x"),
    ):
        raise OSError(28, "No space left on device")
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_folder_in_the_place_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        write_text(tmp_path / "x", "")
    assert names(tmp_path) == ["x"]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    write_text(tmp_path / "x", "old")
    with pytest.raises(OutputError, match=r"cannot make the folder .*Choose another place"):
        write_text(tmp_path / "x" / "y", "")
    with pytest.raises(OutputError, match="cannot make the folder"):
        make_folder(tmp_path / "x" / "y")
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("name", ["x.png", "photo[1].png"])
def test_leftovers_of_a_killed_process_are_cleared(tmp_path, name):
    (tmp_path / name).write_text("result")
    (tmp_path / f".{name}.abc123.png").write_text("half")
    (tmp_path / ".other.abc123.png").write_text("not ours")
    clear_leftovers(tmp_path / name)
    assert names(tmp_path) == sorted([name, ".other.abc123.png"])
