"""`kdinpaint export` as a user types it, in this process."""

from pathlib import Path

import pytest

from kdinpaint import create_model
from kdinpaint.cli.main import main
from kdinpaint.models import save_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save_model(create_model("kdinpaint_tiny_plain", in_channels=1), folder / "student")
    save_model(create_model("autoencoder_tiny"), folder / "teacher")
    return folder


@pytest.mark.parametrize("source", [".", "student/model.safetensors"])
def test_writes_a_model(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str) -> None:
    out = tmp_path / "model.onnx"
    main(["export", str(run / source), "-o", str(out), "--size=32"])
    printed = capsys.readouterr().out
    assert "image   batch x 1 x height x width" in printed
    assert "output  batch x 1 x height x width" in printed
    assert printed.splitlines()[-1] == str(out)
    onnx.checker.check_model(onnx.load(out))


def test_fixed_size_and_opset(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    main(["export", str(run), "-o", str(out), "--size=32", "--fixed", "--opset=19"])
    assert "mask    1 x 1 x 32 x 32" in capsys.readouterr().out
    assert onnx.load(out).opset_import[0].version == 19


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there are no weights at nothing"),
        (["file"], "there are no weights|is not a safetensors file"),
        (["RUN/teacher"], "is a AutoEncoder, which does not inpaint"),
        (["RUN", "--opset=18"], "opset is 18; expected 19 or higher"),
        (["RUN", "--size=0"], "size is 0; expected at least 1 pixel"),
        (["RUN", "--size=16", "--output=file/model.onnx"], "cannot make the folder"),
    ],
)
def test_mistakes_are_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("text")
    arguments = [argument.replace("RUN", str(run)) for argument in arguments]
    if not arguments[-1].startswith("--output"):
        arguments.append("--output=model.onnx")
    with pytest.raises(SystemExit) as stop:
        main(["export", *arguments])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert any(part in text for part in message.split("|"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
