import json

import pytest
import torch

from kdinpaint._core.errors import ConfigError, DataError, RangeError, ShapeError
from kdinpaint.metrics import RatioTable, compare_methods, render_summary
from kdinpaint.ops import RATIO_BINS


@pytest.fixture
def table():
    table = RatioTable(bins=(0.0, 0.1, 0.2, 0.3))
    table.add([0.05, 0.1, 0.15], {"psnr": torch.tensor([30.0, 33.0, 20.0]), "ssim": [0.9, 0.8, 0.7]})
    table.add(torch.tensor([0.02, 0.5]), {"psnr": torch.tensor([36.0, 11.0]), "ssim": [0.7, 0.5]})
    return table


def test_against_hand_computed_numbers(table):
    summary = table.summary()
    first, second, third = summary["bins"]
    assert (first["low"], first["high"], first["count"]) == (0.0, 0.1, 3)
    assert first["metrics"]["psnr"] == {"mean": 33.0, "stderr": pytest.approx(3.0 / 3**0.5)}
    assert first["metrics"]["ssim"] == {"mean": pytest.approx(0.8), "stderr": pytest.approx(0.1 / 3**0.5)}
    assert second["metrics"]["psnr"] == {"mean": 20.0, "stderr": None}
    assert third == {
        "low": 0.2,
        "high": 0.3,
        "count": 0,
        "metrics": {n: {"mean": None, "stderr": None} for n in ("psnr", "ssim")},
    }
    assert summary["outside"] == 1
    assert summary["overall"]["count"] == 5
    assert summary["overall"]["metrics"]["psnr"] == {"mean": 26.0, "stderr": pytest.approx((426 / 4 / 5) ** 0.5)}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_records_keep_order_for_paired_differences(table):
    assert [record["psnr"] for record in table.records] == [30.0, 33.0, 20.0, 36.0, 11.0]
    assert table.records[2] == {"ratio": 0.15, "psnr": 20.0, "ssim": 0.7}


def test_bins_are_half_open_even_after_float32():
    table = RatioTable()
    for edge in RATIO_BINS:
        table.add(torch.tensor([edge]), {"psnr": [1.0]})
    assert [row["count"] for row in table.summary()["bins"]] == [1] * 6
    assert table.summary()["outside"] == 1, "0.01 itself belongs to no bin"


def test_numbers_alone():
    table = RatioTable()
    table.add(0.25, {"psnr": 20.0})
    table.add(torch.tensor(0.3), {"psnr": torch.tensor(22.0)})
    assert table.summary()["bins"][2]["metrics"]["psnr"] == {"mean": 21.0, "stderr": 1.0}


def test_markdown(table):
    assert table.to_markdown(digits=1).splitlines() == [
        "| hole ratio | images |       psnr |      ssim |",
        "| ---------- | -----: | ---------: | --------: |",
        "| 0-10 %     |      3 | 33.0 ± 1.7 | 0.8 ± 0.1 |",
        "| 10-20 %    |      1 |       20.0 |       0.7 |",
        "| 20-30 %    |      0 |          - |         - |",
        "| all        |      5 | 26.0 ± 4.6 | 0.7 ± 0.1 |",
    ]


def test_methods_side_by_side(table):
    other = RatioTable(bins=table.bins)
    for record in table.records:
        other.add(record["ratio"], {"psnr": record["psnr"] - 1})
    summaries = {"ours": table.summary(), "a plain net": other.summary()}
    assert compare_methods(summaries, "psnr", digits=1, style="plain").splitlines() == [
        "psnr     images        ours  a plain net",
        "0-10 %        3  33.0 ± 1.7   32.0 ± 1.7",
        "10-20 %       1        20.0         19.0",
        "20-30 %       0           -            -",
        "all           5  26.0 ± 4.6   25.0 ± 4.6",
    ]
    assert compare_methods(summaries, "psnr").startswith("| psnr    | images |")


def test_empty_table():
    summary = RatioTable().summary()
    assert summary["overall"] == {"count": 0, "metrics": {}}
    assert "all" in render_summary(summary)


def test_add_errors(table):
    with pytest.raises(ShapeError, match="psnr has 1 values for 2 ratios; expected one an image"):
        table.add([0.1, 0.2], {"psnr": [1.0], "ssim": [1.0, 2.0]})
    with pytest.raises(ConfigError, match="values has psnr; expected psnr, ssim, the same in every call"):
        table.add([0.1], {"psnr": [1.0]})
    with pytest.raises(ConfigError, match="none called 'ratio'"):
        RatioTable().add([0.1], {"ratio": [1.0]})
    with pytest.raises(RangeError, match="ssim holds inf; expected finite values"):
        table.add([0.1], {"psnr": [1.0], "ssim": [float("inf")]})
    with pytest.raises(RangeError, match=r"ratio is \[50.0\]; expected values in \[0, 1\]"):
        table.add([50], {"psnr": [1.0], "ssim": [1.0]})
    assert len(table.records) == 5, "a refused batch leaves nothing behind"
    for bins in ((0.1,), (0.2, 0.1), (-0.1, 0.2), (0.5, 1.5)):
        with pytest.raises(ConfigError, match=r"bins are .*expected at least two edges"):
            RatioTable(bins=bins)


def test_compare_errors(table):
    with pytest.raises(ConfigError, match="summaries is empty"):
        compare_methods({}, "psnr")
    with pytest.raises(ConfigError, match="ours has no 'lpips'; expected one of psnr, ssim"):
        compare_methods({"ours": table.summary()}, "lpips")
    with pytest.raises(ConfigError, match="style is 'html'; expected one of 'markdown', 'plain'"):
        compare_methods({"ours": table.summary()}, "psnr", style="html")
    other = RatioTable(bins=table.bins)
    other.add([0.05], {"psnr": [1.0]})
    with pytest.raises(DataError, match="ours and other were not measured on the same pairs"):
        compare_methods({"ours": table.summary(), "other": other.summary()}, "psnr")
