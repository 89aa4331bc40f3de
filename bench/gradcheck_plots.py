"""Makes the pictures of docs/gradcheck.md: python bench/gradcheck_plots.py"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "fastbp"
import matplotlib.pyplot as plt  # noqa: E402

from fastbp.checking import gradcheck  # noqa: E402

PLOTS = Path(__file__).resolve().parents[1] / "docs" / "plots"
H = 10.0 ** np.linspace(-15, 0, 91)


def save(figure: plt.Figure, name: str) -> None:
    figure.savefig(PLOTS / name, metadata={"Date": None})
    plt.close(figure)
    print(PLOTS.name + "/" + name)


def error_against_step() -> None:
    """The two errors of a difference quotient, in float64 and float32."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for dtype in (np.float64, np.float32):
        w = dtype(0.7)
        errors = []
        for h in H:
            ahead, behind = dtype(w + dtype(h)), dtype(w - dtype(h))
            if ahead == behind:
                errors.append(np.nan)
                continue
            slope = (float(np.exp(ahead)) - float(np.exp(behind))) / (float(ahead) - float(behind))
            errors.append(abs(slope / np.exp(float(w)) - 1) + 1e-17)
        axis.loglog(H, errors, ".-", markersize=3, linewidth=0.7, label=dtype.__name__)
    axis.set(xlabel="step h", ylabel="relative error", title="Central difference of exp: noise / h on the left, "
             "curvature on the right")
    axis.title.set_fontsize(10)
    axis.legend()
    save(figure, "gradcheck_steps.svg")


def near_a_kink() -> None:
    """A kink close to the point: large steps see it, small ones do not."""
    figure, axis = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for distance in (1e-2, 1e-4, 1e-6):
        x = 1 + distance
        slope = [(abs(x + h - 1) - abs(x - h - 1)) / (2 * h) for h in H]
        axis.semilogx(H, slope, label=f"kink {distance:g} away")
    axis.set(xlabel="step h", ylabel="central difference", ylim=(-0.1, 1.5),
             title="|x - 1| beside its kink: the right slope, 1, shows at small steps only")
    axis.title.set_fontsize(10)
    axis.legend()
    save(figure, "gradcheck_kink.svg")


def clarke() -> None:
    """The slopes around a tie, and which values are right there."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    axes[0].plot([1, 0], [0, 1], "o-", linewidth=3, label="generalised derivative")
    axes[0].plot([0.5], [0.5], "s", label="(0.5, 0.5): right")
    axes[0].plot([1], [1], "rx", markersize=10, label="(1, 1): wrong")
    axes[0].set(title="max(a, b) where a = "
                      "b", xlabel="entry of a", ylabel="entry of b", xlim=(-0.2, 1.4), ylim=(-0.2, 1.4))
    corners = np.array([[0, 2], [1, 1], [0, 0], [-1, 1], [0, 2]])
    axes[1].fill(corners[:, 0], corners[:, 1], alpha=0.3)
    axes[1].plot(corners[:, 0], corners[:, 1], "o-", label="generalised derivative")
    axes[1].plot([1], [1], "s", label="(1, 1): right, though the slope along a is 0 both ways")
    axes[1].plot([1], [-1], "rx", markersize=10, label="(1, -1): wrong")
    axes[1].set(title="relu(a + b) - relu(a - b) at 0", xlabel="entry of a", ylabel="entry of b", ylim=(-1.4, 3.2))
    for axis in axes:
        axis.legend(fontsize=7)
    save(figure, "gradcheck_clarke.svg")


def report() -> None:
    """What report.plot() draws."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 8))

    def f(w: np.ndarray) -> tuple[float, np.ndarray]:
        W = w.reshape(6, 8)
        g = A * np.cos(W)
        g[2, 5] *= 1.02
        return float(np.sum(A * np.sin(W))), g.ravel()

    picture = gradcheck(f, rng.normal(size=48), [("W", (6, 8))], exhaustive=True).plot()
    picture.savefig(PLOTS / "gradcheck_report.svg", metadata={"Date": None})
    print(PLOTS.name + "/gradcheck_report.svg")


if __name__ == "__main__":
    PLOTS.mkdir(parents=True, exist_ok=True)
    error_against_step()
    near_a_kink()
    clarke()
    report()
