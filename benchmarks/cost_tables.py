"""Tables of throughput and of what the paper's runs cost, from what throughput.py and loading.py measured."""

from typing import Any

from table_parts import costs, machine

from kdinpaint._core.markdown import markdown_table

__all__ = ["loading", "paper_cost", "throughput"]

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
    gpu = f"{found['gpu']}, " if content["options"].get("device") == "cuda" else ""
    return f"`{content['command']}`; {gpu}{content['cores']} cores; {machine(found)}"


def throughput(content: dict[str, Any]) -> str:
    """Every contender beside ours, by precision, and where the time of ours goes."""
    text = ""
    for precision, found in content["training"].items():
        rows = []
        for name, one in found["contenders"].items():
            peak = [f"{one['peak_gib']:.1f}"] if "peak_gib" in one else []
            ratio = "1" if name == "ours" else "{:.2f} ({:.2f} to {:.2f})".format(*one["times_ours"])
            rows.append([name, f"{one['images_a_second']:.1f}", f"{one['milliseconds']['median']:.0f}", ratio, *peak])
        rows += [[name, "-", "-", "-", "-"][: len(rows[0])] for name in found["absent"]]
        header = [precision, "images a second", "ms a step", "ms, times ours", "peak GiB"][: len(rows[0])]
        reasons = "".join(f"{name}: {reason}\n\n" for name, reason in found["absent"].items())
        text += f"{markdown_table(header, rows)}\n\n{reasons}{costs(found['largest_costs'])}\n\n"
    options = content["options"]
    return (
        f"{text}{_origin(content)}; our networks `{options['model']}`, the others as published; {options['size']} px, "
        f"batch {options['batch']}, hole of {options['hole']:.0%}; medians of {options['rounds']} rounds, "
        f"{options['steps']} step{'s' if options['steps'] > 1 else ''} each, intervals of 95 % over the rounds; VGG's "
        f"weights: {content['vgg']} (no time depends on them).\n"
    )


def paper_cost(content: dict[str, Any]) -> str:
    """Throughput by precision, and what it makes of the paper's runs."""
    speeds = {
        name: {role: one["images_a_second"] for role, one in found["contenders"].items()}
        for name, found in content["training"].items()
    }
    rates = []
    for name, found in content["training"].items():
        fed = found["fed"]
        rates.append(
            [
                name,
                *(f"{speeds[name][role]:.0f}" for role in ("teacher", "plain", "ours")),
                f"{fed['by the loader'] / fed['by one batch']:.0%}",
                f"{found['contenders']['ours']['peak_gib']:.1f}",
            ]
        )
    header = ["images a second", "teacher", "plain", "ours", "of it, fed by the loader", "peak GiB, ours"]
    hours = []
    for run, steps in RUNS.items():
        images = steps * BATCH
        seconds = [TEACHER_SHARE * images / speed["teacher"] + images / speed["ours"] for speed in speeds.values()]
        hours.append([run, f"{steps / 1e6:.1f} M", *(f"{one / 3600:.0f}" for one in seconds)])
    return (
        markdown_table(header, rates)
        + "\n\n"
        + markdown_table(["GPU hours, teacher and student", "steps", *speeds], hours)
        + f"\n\n{_origin(content)}; {content['options']['size']} px, batch {content['options']['batch']}.\n"
    )


def loading(content: dict[str, Any]) -> str:
    """Images a second of the loader, by workers."""
    rows = [[name, f"{rate:.0f}"] for name, rate in content["loading"].items()]
    return (
        markdown_table(["loader", "images a second"], rows)
        + f"\n\n{_origin(content)}; JPEG files of {content['options']['size']} px, decoded anew each time.\n"
    )
