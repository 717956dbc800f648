import csv
import io

import pytest

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.metrics import PAPER_TABLE, MeasuredMethod, RatioTable, compare_runs, render_comparison


def summary(low=(33.0, 34.0), high=(28.0, 28.5, 27.5), ssim=0.9):
    """Values of images in the bins 10-20 % and 30-40 %."""
    table = RatioTable()
    table.add([0.15] * len(low) + [0.35] * len(high), {"psnr": [*low, *high], "ssim": [ssim] * (len(low) + len(high))})
    return table.summary()


def method(name="mine", dataset="celeba", *, protocol="default", manifest="aaaa", **values):
    return MeasuredMethod(dataset, name, protocol, manifest, summary(**values), f"runs/{name}")


def test_the_papers_numbers_as_printed():
    cells = {(c.metric, c.method, c.dataset, c.low): c.value for c in PAPER_TABLE}
    assert len(cells) == len(PAPER_TABLE) == 2 * 5 * 6 - 4, "GC is not printed for Places2"
    assert not any(c.method == "GC" and c.dataset == "places2" for c in PAPER_TABLE)
    assert cells["psnr", "Ours", "places2", 0.1] == 28.75
    assert cells["psnr", "PC", "celeba", 0.3] == 26.94
    assert cells["ssim", "EC", "paris", 0.1] == 0.950
    slips = [c for c in PAPER_TABLE if c.slip]
    assert [(c.metric, c.method, c.dataset, c.low, c.value) for c in slips] == [("ssim", "Ours", "paris", 0.1, 0.819)]
    for low in (0.1, 0.3):  # the margins that the paper claims
        rivals = [cells["psnr", m, "celeba", low] for m in ("PIC", "PC", "GC", "EC")]
        assert cells["psnr", "Ours", "celeba", low] - max(rivals) == pytest.approx({0.1: 1.09, 0.3: 0.90}[low])


def test_values_are_means_with_their_errors_and_counts():
    table = compare_runs([method(), method("other", low=(31.0, 31.0))])
    cell = table.measured["psnr", "mine", "celeba", (0.1, 0.2)]
    assert (cell.mean, cell.stderr, cell.count) == (33.5, 0.5, 2)
    assert table.measured["psnr", "other", "celeba", (0.1, 0.2)].mean == 31.0
    assert table.count("celeba", (0.3, 0.4)) == 3
    assert table.methods(published=False) == ["mine", "other"]
    assert table.methods(published=True) == ["PIC", "PC", "GC", "EC", "Ours"]
    assert {key[2] for key in table.published} == {"celeba"}


def test_markdown_tells_published_from_measured_and_marks_the_slip():
    text = render_comparison(compare_runs([method(), method(dataset="paris", manifest="bbbb")]), "markdown")
    lines = text.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "PSNR",
        "CelebA 10-20 %",
        "CelebA 30-40 %",
        "Paris StreetView 10-20 %",
        "Paris StreetView 30-40 %",
    ]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["images", "2", "3", "2", "3"]
    assert "33.50 ± 0.50" in lines[3]
    assert "*33.86*†" in text
    assert "*0.819*‡" in text
    assert text.count("‡") == 2, "the cell and its note"
    assert "protocol default; manifests: celeba aaaa, paris bbbb" in text
    assert "a slip" in text
    without = render_comparison(compare_runs([method()], published=False), "markdown")
    assert "†" not in without
    assert "‡" not in without


def test_csv_can_be_read_back():
    table = compare_runs([method(), method(dataset="paris", manifest="bbbb")])
    rows = list(csv.DictReader(io.StringIO(render_comparison(table, "csv"))))
    ours = [r for r in rows if r["source"] == "measured"]
    assert len(ours) == 8
    first = next(r for r in ours if (r["dataset"], r["metric"], r["low"]) == ("celeba", "psnr", "0.1"))
    assert (float(first["mean"]), float(first["stderr"]), first["count"]) == (33.5, 0.5, "2")
    assert (first["protocol"], first["manifest"]) == ("default", "aaaa")
    published = [r for r in rows if r["source"] == "published"]
    assert len(published) == 2 * 5 * 4
    assert [r["mean"] for r in published if r["note"] == "slip"] == ["0.819"]
    assert not any(r["stderr"] or r["protocol"] for r in published)


def test_latex_is_grey_where_it_is_published():
    text = render_comparison(compare_runs([method("my_net"), method("my_net", "paris", manifest="bbbb")]), "latex")
    assert text.count("\\begin{tabular}{lrrrr}") == text.count("\\end{tabular}") == 2
    assert "my\\_net & 33.50 $\\pm$ 0.50 & 28.00 $\\pm$ 0.29" in text
    assert "\\textcolor{gray}{\\textit{33.86}}" in text
    assert "\\textcolor{gray}{\\textit{0.819$^\\ddagger$}}" in text
    assert "10-20 \\%" in text
    assert text.splitlines()[0].startswith("% Mean")


def test_photos_of_ones_own_have_no_published_rows():
    text = render_comparison(compare_runs([method(dataset="photos")]), "markdown")
    assert "photos 10-20 %" in text
    assert "†" not in text


def test_a_method_that_is_missing_on_one_data_set_has_a_dash():
    table = compare_runs([method(), method("other", "paris", manifest="bbbb")], published=False)
    row = next(r for r in render_comparison(table, "markdown").splitlines() if "other" in r)
    assert [cell.strip() for cell in row.split("|")[2:4]] == ["-", "-"]


def test_protocols_and_manifests_are_not_mixed():
    with pytest.raises(DataError, match=r"mine under 'default' \(runs/mine\); other under 'lama'"):
        compare_runs([method(), method("other", protocol="lama")])
    with pytest.raises(DataError, match=r"celeba: other was measured on manifest bbbb \(runs/other\), others on aaaa"):
        compare_runs([method(), method("other", manifest="bbbb")])
    compare_runs([method(), method("other", "paris", manifest="bbbb")])  # another data set has another one


def test_errors():
    with pytest.raises(ConfigError, match="there is no method"):
        compare_runs([])
    with pytest.raises(ConfigError, match=r"mine comes twice for celeba .* NAME=RUN"):
        compare_runs([method(), method()])
    with pytest.raises(ConfigError, match=r"metrics are \['fid'\]; expected some of psnr, ssim"):
        compare_runs([method()], metrics=["fid"])
    with pytest.raises(DataError, match="has no psnr for hole ratios of 50-60 %"):
        compare_runs([method()], bins=[(0.5, 0.6)])
    with pytest.raises(ConfigError, match="style is 'html'"):
        render_comparison(compare_runs([method()]), "html")
