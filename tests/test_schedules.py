"""Learning rates against their formulas, and where fit gets them from."""

import math

import numpy as np
import pytest

import fastbp
from fastbp import schedules

X = np.linspace(-1, 1, 12)[:, None]


def fit(schedule, epochs=6, learning_rate=0.1, **options):
    net, optimizer = fastbp.MLP([1, 1], rng=0), fastbp.SGD(learning_rate)
    history = net.fit(X, 3 * X + 1, epochs=epochs, optimizer=optimizer, schedule=schedule, rng=0, **options)
    assert optimizer.learning_rate == learning_rate, "the optimizer has its own rate again"
    return history


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (None, lambda e: 0.1),
        (schedules.Constant(), lambda e: 0.1),
        (schedules.InverseScaling(), lambda e: 0.1 / math.sqrt(1 + e)),
        (schedules.InverseScaling(power=2), lambda e: 0.1 / (1 + e) ** 2),
        (schedules.Step(every=2), lambda e: 0.1 * 0.1 ** (e // 2)),
        (schedules.Step(every=3, factor=0.5), lambda e: 0.1 * 0.5 ** (e // 3)),
        (schedules.Cosine(), lambda e: 0.05 * (1 + math.cos(math.pi * e / 6))),
        (schedules.Cosine(epochs=3, last=0.02), lambda e: 0.02 + 0.04 * (1 + math.cos(math.pi * min(e, 3) / 3))),
        (lambda epoch: 0.3 / (epoch + 1), lambda e: 0.3 / (e + 1)),
    ],
    ids=repr,
)
def test_rates_are_those_of_the_formula(schedule, formula):
    for _ in range(2):  # a schedule may be used again
        np.testing.assert_allclose(fit(schedule).learning_rates, [formula(e) for e in range(6)], rtol=1e-14)


def test_the_rate_is_that_of_the_steps():
    """One batch per epoch and plain SGD: each epoch's step is its rate times the gradient."""
    net = fastbp.MLP([1, 1], rng=0)
    w = net.parameters.copy()
    for rate in (0.5, 0.25, 0.125):
        residual = w[0] * X + w[1] - (3 * X + 1)
        w = w - rate * np.array([(residual * X).mean(), residual.mean()])
    net.fit(X, 3 * X + 1, epochs=3, batch_size=12, optimizer=fastbp.SGD(0.5), schedule=schedules.Step(1, 0.5))
    np.testing.assert_allclose(net.parameters, w, rtol=1e-12)


def adaptive(losses, base, factor, patience, min_delta):
    """What Adaptive documents, said again: the rate of each epoch, given the losses of those before."""
    rates, rate, mark, waited = [], base, math.inf, 0
    for loss in losses:
        rates.append(rate)
        waited = waited + 1 if loss >= mark - min_delta else 0
        mark = loss if waited == 0 else mark
        if waited == patience:
            rate, waited = rate * factor, 0
    return rates


@pytest.mark.parametrize("patience", [1, 2, 3])
@pytest.mark.parametrize("min_delta", [0.0, 0.05])
def test_adaptive(patience, min_delta):
    losses = np.random.default_rng(patience).uniform(size=40) * np.linspace(2, 1, 40)
    schedule = schedules.Adaptive(factor=0.5, patience=patience, min_delta=min_delta, min_rate=0)
    schedule.start(0.1, 40)
    rates = []
    for epoch, loss in enumerate(losses):
        rates.append(schedule.rate(epoch))
        schedule.observe(loss)
    assert len(set(rates)) > 3
    assert rates == adaptive(losses, 0.1, 0.5, patience, min_delta)


def test_adaptive_sees_the_training_loss_and_ends_at_its_least_rate():
    history = fit(schedules.Adaptive(factor=0.1, patience=2, min_delta=1e9, min_rate=1e-3), epochs=100)
    np.testing.assert_allclose(history.learning_rates, [0.1] * 3 + [0.01] * 2 + [0.001] * 2, rtol=1e-12)
    assert history.stopped == "learning rate"


def test_adaptive_sees_the_validation_loss_where_there_is_one():
    """The training loss falls, that of contrary validation data rises."""
    schedule = schedules.Adaptive(factor=0.5, patience=1)
    history = fit(schedule, validation=(X, -3 * X - 1))
    assert history.losses[-1] < history.losses[0]
    assert history.learning_rates == [0.1 * 0.5 ** max(0, e - 1) for e in range(6)]


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: schedules.Step(every=0), "every"),
        (lambda: schedules.Step(every=3, factor=1.5), "factor"),
        (lambda: schedules.Cosine(epochs=2.5), "epochs"),
        (lambda: schedules.Cosine(last=-1), "last"),
        (lambda: schedules.InverseScaling(power=0), "power"),
        (lambda: schedules.Adaptive(patience=True), "patience"),
        (lambda: schedules.Adaptive(min_delta=math.nan), "min_delta"),
        (lambda: fit("cosine"), "schedule"),
        (lambda: fit(schedules.Cosine), "schedule"),
        (lambda: fit(lambda epoch: -1.0), "schedule's rate"),
        (lambda: fit(lambda epoch: "fast"), "schedule's rate"),
    ],
)
def test_bad_arguments_are_named(make, name):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be"):
        make()


def test_repr_shows_the_arguments():
    schedule = schedules.Step(every=3)
    schedule.start(0.1, 5)
    assert repr(schedule) == "Step(every=3, factor=0.1)"
    assert repr(schedules.Cosine()) == "Cosine(epochs=None, last=0.0)"
