"""Show results of training.py: in the terminal, and as the tables of README.md and bench/README.md (by table.py)."""

from __future__ import annotations

import math
import statistics

from learners import LEARNERS, PEERS
from table import Result, describe, geometric_mean, title

OURS = ("fastbp.sklearn", "fastbp")
TITLES = {"fastbp": "net.fit"} | {name: name for name in LEARNERS if name != "fastbp"}
RISK = 0.01  # of calling a difference of two equally good learners more than noise


def seconds(entry: Result, name: str) -> float:
    """Return the median time over the seeds, nan where there is none."""
    taken = entry["learners"].get(name, {}).get("seconds")
    return statistics.median(taken) if taken else math.nan


def peer(entry: Result) -> tuple[str, float]:
    """Return the faster of the peers and its time; ("", nan) if there is none."""
    times = {name: seconds(entry, name) for name in PEERS if not math.isnan(seconds(entry, name))}
    name = min(times, key=lambda n: times[n], default="")
    return name, times.get(name, math.nan)


def factor(entry: Result, name: str) -> float:
    """Return how many times as fast as the faster peer one of ours is."""
    return peer(entry)[1] / seconds(entry, name)


def score(entry: Result, name: str) -> str:
    """Return the mean score and its standard deviation over the seeds."""
    scores = entry["learners"].get(name, {}).get("scores")
    if not scores:
        return "-"
    return f"{statistics.mean(scores):.4f} ± {statistics.stdev(scores) if len(scores) > 1 else math.nan:.4f}"


def beyond_noise(entry: Result) -> list[str]:
    """Name the pairs of one of ours and a peer whose scores differ by more than noise: a paired t test over seeds."""
    from scipy.stats import t

    found = []
    for ours in OURS:
        for other in PEERS:
            a, b = (entry["learners"].get(name, {}).get("scores", []) for name in (ours, other))
            differences = [x - y for x, y in zip(a, b, strict=False)]
            n = len(differences)
            if n < 3:
                continue
            mean = statistics.mean(differences)
            noise = t.ppf(1 - RISK / 2, n - 1) * statistics.stdev(differences) / math.sqrt(n)
            if abs(mean) > max(noise, 5e-4):
                found.append(f"{TITLES[ours]} - {other}: {mean:+.4f}, noise {noise:.4f}")
    return found


def noise(result: Result) -> str:
    """Say which scores differ by more than noise."""
    apart = [f"{entry['name']}: {words}" for entry in result["training"] for words in beyond_noise(entry)]
    return (
        "Scores of fastbp.sklearn or net.fit that differ from a peer's by more than noise (paired t test over the "
        f"seeds, risk {RISK:.0%} for each pair): {'; '.join(apart) or 'none'}."
    )


def time(value: float) -> str:
    """Format seconds with three figures, as milliseconds."""
    if math.isnan(value):
        return "-"
    return f"{1e3 * value:,.{max(0, 2 - math.floor(math.log10(max(1e3 * value, 1e-3))))}f}"


def ratio(value: float) -> str:
    """Format a factor."""
    return "-" if math.isnan(value) else f"{value:.2f}"


# --- for the terminal -----------------------------------------------------------------------------------


def header(result: Result) -> str:
    """Return the terminal table's head."""
    names = "".join(f"{TITLES[name]:>17}" for name in LEARNERS)
    return f"{describe(result)}\n\nmedian of the seeds in milliseconds; held-out score\n{'':60}{names}   noise others"


def line(entry: Result) -> str:
    """Return a case's two lines."""
    times = "".join(f"{time(seconds(entry, name)):>17}" for name in LEARNERS)
    scores = "".join(f"{score(entry, name):>17}" for name in LEARNERS)
    quiet = f"{100 * entry['control_spread']:6.0f} %{100 * entry['others']:5.0f} %"
    return f"{entry['name']:60}{times}{quiet}\n{'':60}{scores}"


def summary(result: Result) -> str:
    """Return the factors against the faster peer, by case and their mean; and scores that differ."""
    lines = [f"{'times as fast as the faster peer':60}" + "".join(f"{TITLES[name]:>17}" for name in OURS)]
    for entry in result["training"]:
        lines.append(f"{entry['name']:60}" + "".join(f"{ratio(factor(entry, name)):>17}" for name in OURS))
    lines.append(f"{'geometric mean':60}" + "".join(f"{ratio(mean(result, name)):>17}" for name in OURS))
    return "\n".join([*lines, "", noise(result)])


def mean(result: Result, name: str) -> float:
    """Return the geometric mean of the factors of one of ours."""
    factors = [factor(entry, name) for entry in result["training"]]
    return geometric_mean([value for value in factors if not math.isnan(value)])


def epochs(result: Result) -> str:
    """Return an epoch's time against its steps', by shape."""
    lines = [f"{'milliseconds':50}{'epoch of net.fit':>20}{'its train_steps':>20}{'steps in order':>20}"]
    for entry in result["epochs"]:
        epoch, steps, in_order = (entry["seconds"][name] for name in ("epoch", "steps", "in order"))
        more = [f"{time(value)} ({epoch / value - 1:+.0%})" for value in (steps, in_order)]
        lines.append(f"{entry['name']:50}{time(epoch):>20}" + "".join(f"{words:>20}" for words in more))
    return "\n".join(lines)


def row(result: Result) -> str:
    """Return what partial_fit of one row takes."""
    taken = ", ".join(f"{name} {1e6 * value:.1f}" for name, value in result["row"].items())
    return f"partial_fit of one row of digits, 64-100-10, microseconds: {taken}"


# --- for the files --------------------------------------------------------------------------------------


def short_table(result: Result) -> str:
    """Render the README's table: times of all, factors, and the score of our estimator beside the peers'."""
    columns = [*(f"{TITLES[name]}, ms" for name in LEARNERS), "ratio", "ratio of net.fit"]
    lines = [
        f"**{title(result)}**: {describe(result)}.",
        "",
        "| training | " + " | ".join(columns) + " | held-out score | of scikit-learn |",
        "|---|" + "---:|" * (len(columns) + 2),
    ]
    for entry in result["training"]:
        cells = [entry["name"], *(time(seconds(entry, name)) for name in LEARNERS)]
        cells += [f"**{ratio(factor(entry, name))}**" for name in OURS]
        cells += [score(entry, "fastbp.sklearn"), score(entry, "scikit-learn")]
        lines.append("| " + " | ".join(cells) + " |")
    means = [f"**{ratio(mean(result, name))}**" for name in OURS]
    lines.append("| geometric mean |" + " |" * len(LEARNERS) + f" {means[0]} | {means[1]} | | |")
    return "\n".join([*lines, "", noise(result)])


def full_table(result: Result) -> str:
    """Render the scores of all, and an epoch against its steps."""
    names = list(LEARNERS)
    lines = [f"## Trainings, {title(result)}", "", describe(result) + ".", ""]
    lines += ["### Held-out scores", "", "| training | " + " | ".join(TITLES[name] for name in names) + " |"]
    lines.append("|---|" + "---:|" * len(names))
    for entry in result["training"]:
        lines.append("| " + " | ".join([entry["name"], *(score(entry, name) for name in names)]) + " |")
    lines += ["", noise(result)]
    lines += ["", "### An epoch of net.fit against its steps", ""]
    lines += ["| rows x network, batch | epoch, ms | its train_steps, ms | more | steps in order, ms | more |"]
    lines.append("|---|" + "---:|" * 5)
    for entry in result["epochs"]:
        epoch, steps, in_order = (entry["seconds"][name] for name in ("epoch", "steps", "in order"))
        cells = [time(epoch), time(steps), f"{epoch / steps - 1:+.0%}", time(in_order), f"{epoch / in_order - 1:+.0%}"]
        lines.append(f"| {entry['name']} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", row(result) + "."])
