"""Results on the terminal."""

from kdinpaint.cli.report import print_results


def test_all_phases_of_a_comparator_are_its_training(capsys):
    scores = {"psnr": {"mean": 20.0, "stderr": 0.1}}
    part = {"count": 2, "metrics": scores}
    model = {"overall": part, "bins": [{"low": 0.0, "high": 0.1, **part}], "parameters": 1e6, "gmac": 1.0}
    seconds = {"phases/ec_1_edge": 4.0, "phases/ec_2_completion": 5.0, "ec": 2.0, "other": 100.0}
    results = {
        "models": {"ec": {**model, "milliseconds": 3.0, "records": []}},
        "train_seconds": seconds,
        "protocol": "default",
        "manifest": "a" * 64,
    }
    print_results(results)
    assert "11 s" in capsys.readouterr().out
