"""The tables of the page "What the paper's runs cost", from what throughput.py measured."""

from typing import Any

from kdinpaint._core.markdown import markdown_table

__all__ = ["loading", "paper_cost"]

# Steps of the student at a batch of 6; the teacher takes a quarter of them.
RUNS = {
    "CelebA": 400_000,
    "Paris StreetView": 400_000,
    "Places2": 2_500_000,
    "Places2-Challenge, as many epochs": round(2_500_000 * 8_026_628 / 1_803_460),
}
BATCH, TEACHER_SHARE = 6, 0.25


def _origin(content: dict[str, Any]) -> str:
    found = content["environment"]
    gpu = f"{found['gpu']}, " if "gpu" in found else ""
    return f"`{content['command']}`; {gpu}{found['processor']}, {content['cores']} cores, torch {found['torch']}"


def paper_cost(content: dict[str, Any]) -> str:
    """Throughput by precision, and what it makes of the paper's runs."""
    rates = [
        [
            name,
            *(f"{found[role]['images_a_second']:.0f}" for role in ("teacher", "plain", "ours")),
            f"{found['ours, fed by the loader']['images_a_second'] / found['ours']['images_a_second']:.0%}",
            f"{found['ours']['peak_gib']:.1f}",
        ]
        for name, found in content["training"].items()
    ]
    header = ["images a second", "teacher", "plain", "ours", "of it, fed by the loader", "peak GiB, ours"]
    names = list(content["training"])
    costs = []
    for run, steps in RUNS.items():
        cells = []
        for name in names:
            found = content["training"][name]
            images = steps * BATCH
            seconds = (
                TEACHER_SHARE * images / found["teacher"]["images_a_second"] + images / found["ours"]["images_a_second"]
            )
            cells.append(f"{seconds / 3600:.0f}")
        costs.append([run, f"{steps / 1e6:.1f} M", *cells])
    return (
        markdown_table(header, rates)
        + "\n\n"
        + markdown_table(["GPU hours, teacher and student", "steps", *names], costs)
        + f"\n\n{_origin(content)}; {content['options']['size']} px, batch {content['options']['batch']}.\n"
    )


def loading(content: dict[str, Any]) -> str:
    """Images a second of the loader, by workers."""
    rows = [[name, f"{rate:.0f}"] for name, rate in content["loading"].items()]
    return (
        markdown_table(["loader", "images a second"], rows)
        + f"\n\n{_origin(content)}; JPEG files of {content['options']['size']} px, decoded anew each time.\n"
    )
