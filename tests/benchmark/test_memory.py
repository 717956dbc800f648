"""The meter against allocations of known size."""

import subprocess
import sys

import pytest
import torch

from kdinpaint.benchmark.memory import peak_memory, quiet

MEGA = 4 * 1_000_000


def test_peak_of_known_allocations(device: torch.device) -> None:
    def call() -> torch.Tensor:
        first = torch.empty(1_000_000, device=device)
        second = torch.empty(1_000_000, device=device)
        third = torch.empty(1_000_000, device=device)
        del first, second
        fourth = torch.empty(1_000_000, device=device)
        return third + fourth  # three at the same time, never four

    memory = peak_memory(call, device)
    assert memory.results == MEGA
    assert memory.peak == pytest.approx(3 * MEGA, rel=0.02)


def test_what_was_there_before_does_not_count(device: torch.device) -> None:
    held = torch.ones(1_000_000, device=device)
    assert peak_memory(lambda: held.add_(1), device).peak < 10_000
    assert peak_memory(lambda: held + 1, device).peak == pytest.approx(MEGA, rel=0.02)


def test_sees_inside_operators_and_backward() -> None:
    from torchvision.ops import deform_conv2d

    x = torch.randn(1, 8, 32, 32, requires_grad=True)
    weight, offset = torch.randn(8, 8, 3, 3), torch.zeros(1, 18, 32, 32)
    columns, image = 9 * 8 * 32 * 32 * 4, 8 * 32 * 32 * 4

    def training() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(deform_conv2d(x, offset, weight, padding=1).sum(), x)

    with torch.no_grad():
        forward = peak_memory(lambda: deform_conv2d(x, offset, weight, padding=1), torch.device("cpu")).peak
    assert columns + image <= forward <= columns + 5 * image
    assert peak_memory(training, torch.device("cpu")).peak > columns + image


def test_an_error_passes_through_and_stderr_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> torch.Tensor:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        peak_memory(fails, torch.device("cpu"))
    print("afterwards", file=sys.stderr)
    assert capfd.readouterr().err == "afterwards\n"


def test_quiet_holds_back_native_output(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        subprocess.run([sys.executable, "-c", "import os; os.write(2, b'native')"], check=True)
    assert capfd.readouterr().err == ""
