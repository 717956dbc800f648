"""`kdinpaint protocols`."""

import pytest
import stand_ins
import torch

from kdinpaint.cli.main import main
from kdinpaint.cli.protocols import ProtocolsConfig, blurry_fill, compare_protocols
from kdinpaint.metrics import PROTOCOLS


def test_every_protocol_on_equal_predictions(tmp_path, capsys):
    for number in range(2):
        stand_ins.save(tmp_path, f"{number}.png", stand_ins.picture(number, (80, 80)))
    config = ProtocolsConfig(photos=tmp_path, size=64, images=3)
    results, digest = compare_protocols(config)
    assert set(results) == set(PROTOCOLS)
    assert compare_protocols(config) == (results, digest)
    assert results["mat"]["psnr"] == pytest.approx(results["default"]["psnr"])
    main(["protocols", f"--photos={tmp_path}", "--size=64", "--images=3"])
    out = capsys.readouterr().out
    assert all(name in out for name in PROTOCOLS)
    assert f"SSIM from {min(v['ssim'] for v in results.values()):.3f}" in out
    assert digest[:12] in out


def test_the_filling_is_a_mean_of_known_pixels():
    image, mask = torch.rand(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)
    mask[..., 20:40, 20:40] = 1
    filled = blurry_fill(image, mask)
    assert torch.allclose(filled, blurry_fill(torch.where(mask == 1, torch.rand(1), image), mask))
    flat = torch.full((1, 3, 64, 64), 0.3)
    assert torch.allclose(blurry_fill(flat, mask), flat, atol=1e-5)
