"""The compiled form: where it is kept, and what happens where it cannot be had."""

import stat

import pytest
import torch
from cpu_backends import needs_compiler

from kdinpaint.ops import cpp
from kdinpaint.ops.cpp import build, work


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A cache of its own, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(build.SWITCH, raising=False)
    monkeypatch.setattr(build, "_load", build._load.__wrapped__)
    return tmp_path / "kdinpaint"


@needs_compiler
def test_compiles_once_and_leaves_one_file(fresh, monkeypatch):
    assert build.missing() is None
    (path,) = fresh.iterdir()
    monkeypatch.setattr(build.subprocess, "run", lambda *a, **k: pytest.fail("compiled a second time"))
    assert build.library()
    assert list(fresh.iterdir()) == [path]


@needs_compiler
def test_every_kind_of_processor_has_a_file_of_its_own(fresh, monkeypatch):
    for capability in ("DEFAULT", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)  # noqa: B023 - used at once
        build.missing()
    assert len(list(fresh.iterdir())) == 2


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(fresh):
    fresh.write_text("a file where a folder should be")
    assert build.missing() is None


@needs_compiler
def test_a_file_that_is_no_library_is_compiled_anew(fresh, tmp_path, monkeypatch):
    build.missing()
    (path,) = fresh.iterdir()
    broken = tmp_path / "other" / "kdinpaint" / path.name
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"cut off")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert build.missing() is None
    assert broken.read_bytes() == path.read_bytes()


def test_without_a_compiler_it_says_so(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.missing() == "there is no compiler no-such-compiler"
    with pytest.raises(RuntimeError, match="no-such-compiler"):
        build.library()


def test_a_compiler_that_fails_is_quoted(fresh, tmp_path, monkeypatch):
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho 'fatal error: no such header' >&2\nexit 1\n")
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))
    assert build.missing() == "adaptive_conv.cpp could not be compiled: fatal error: no such header"
    assert list(fresh.iterdir()) == []


def test_the_switch_and_other_systems(fresh, monkeypatch):
    monkeypatch.setattr(build.sys, "platform", "win32")
    assert "Linux" in build.missing()
    monkeypatch.setenv(build.SWITCH, "0")
    assert build.missing() == "KDINPAINT_COMPILE=0 is set"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, w, o, v: (x.to("meta"), w, o, v), "not a CPU"),
        (lambda x, w, o, v: (x, w, o.double(), v), "offset of a wider dtype than input"),
        (lambda x, w, o, v: (x, w.double(), o, v), "weight of a wider dtype than input"),
        (lambda x, w, o, v: (x[:0], w, o[:0], v[:0]), "an empty argument"),
        (lambda x, w, o, v: (x.expand(2**27, -1, -1, -1), w, o, v), "more than 2^31 pixels"),
    ],
    ids=["device", "offset", "weight", "empty", "size"],
)
def test_says_what_it_does_not_take(change, reason):
    arguments = (torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 18, 4, 4), torch.randn(1, 9, 4, 4))
    assert cpp.unsupported(*change(*arguments)) == reason


@needs_compiler
def test_structures_have_the_sizes_of_the_source(tmp_path):
    # A field added on one side only would shift all that follow.
    source, names = tmp_path / "sizes.cpp", ("Work<float>", "Layout<double>", "Sample<float>", "Sample<double>")
    sizes = ", ".join(f"sizeof({name})" for name in names)
    source.write_text(
        f'#include <cstdio>\n#include "{build.SOURCE}"\nint main() {{ std::printf("%zu %zu %zu %zu", {sizes}); }}\n'
    )
    compiler, program = build.shutil.which("g++") or "c++", tmp_path / "sizes"
    build.subprocess.run([compiler, "-fopenmp", str(source), "-o", str(program)], check=True)
    found = build.subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.split()
    structures = [build.ctypes.sizeof(work.Work), build.ctypes.sizeof(work._Layout)]
    assert [int(size) for size in found] == [*structures, *work._SAMPLE_BYTES.values()]
