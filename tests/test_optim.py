"""SGD, RMSprop, Adam and AdamW against the formulas in plain NumPy, with PyTorch's conventions, and against torch."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import fastbp

TOLERANCE = {np.float64: 1e-13, np.float32: 2e-6}
SETTINGS = [
    ("SGD", {}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True}),
    ("SGD", {"learning_rate": 0.1, "weight_decay": 0.01}),
    ("SGD", {"learning_rate": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"learning_rate": 0.03, "rho": 0.5, "eps": 1e-3, "momentum": 0.8, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"learning_rate": 0.01, "beta1": 0.5, "beta2": 0.9, "eps": 1e-4}),
    ("Adam", {"learning_rate": 0.01, "beta1": 0.0, "beta2": 0.0}),
    ("Adam", {"learning_rate": 0.01, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"learning_rate": 0.01, "weight_decay": 0.5, "beta2": 0.99}),
]


def sgd(w, state, g, *, learning_rate=0.01, momentum=0.0, nesterov=False, weight_decay=0.0):
    g = g + weight_decay * w
    state["v"] = momentum * state["v"] + g if "v" in state else g
    step = g + momentum * state["v"] if nesterov else state["v"]
    return w - learning_rate * (step if momentum else g)


def adam(w, state, g, *, learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
         decoupled=False):
    if decoupled:
        w = w - learning_rate * weight_decay * w
    else:
        g = g + weight_decay * w
    state["t"] = state.get("t", 0) + 1
    state["m"] = beta1 * state.get("m", 0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0) + (1 - beta2) * g * g
    m, v = state["m"] / (1 - beta1 ** state["t"]), state["v"] / (1 - beta2 ** state["t"])
    return w - learning_rate * m / (np.sqrt(v) + eps)


def adamw(w, state, g, *, weight_decay=0.01, **options):
    return adam(w, state, g, weight_decay=weight_decay, decoupled=True, **options)


def rmsprop(w, state, g, *, learning_rate=0.01, rho=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    g = g + weight_decay * w
    state["v"] = rho * state.get("v", 0) + (1 - rho) * g * g
    state["u"] = momentum * state.get("u", 0) + g / (np.sqrt(state["v"]) + eps)
    return w - learning_rate * state["u"]


RULES = {"SGD": sgd, "RMSprop": rmsprop, "Adam": adam, "AdamW": adamw}


def make(dtype, sizes=(3, 7, 2)):
    return fastbp.MLP(sizes, activation="tanh", dtype=dtype, rng=1)


def gradients(n, dtype, steps):
    rng = np.random.default_rng(2)
    return [(rng.normal(size=n) * 10.0 ** rng.integers(-6, 2, size=n)).astype(dtype) for _ in range(steps)]


@pytest.mark.parametrize(("name", "options"), SETTINGS)
@pytest.mark.parametrize("sizes", [(1, 1), (3, 7, 2), (50, 60, 10)])
def test_steps_are_those_of_the_formula(isa, dtype, name, options, sizes):
    net, optimizer = make(dtype, sizes), getattr(fastbp, name)(**options)
    w, state = net.parameters.astype(np.float64), {}
    for g in gradients(net.n_parameters, dtype, 12):
        kept = g.copy()
        optimizer.step(net, g)
        w = RULES[name](w, state, g.astype(np.float64), **options)
        np.testing.assert_array_equal(g, kept)
        np.testing.assert_allclose(net.parameters, w, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(w).max()))


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_steps_are_those_of_torch(isa, dtype, name, options):
    torch = pytest.importorskip("torch")
    theirs = {"learning_rate": "lr", "beta1": None, "beta2": None, "rho": "alpha"}
    given = {theirs.get(k, k): v for k, v in options.items() if theirs.get(k, k)}
    if name.startswith("Adam"):
        given["betas"] = (options.get("beta1", 0.9), options.get("beta2", 0.999))
    net, optimizer = make(dtype), getattr(fastbp, name)(**options)
    if name == "SGD":
        given.setdefault("lr", 0.01)
    w = torch.tensor(net.parameters.copy(), requires_grad=True)
    other = getattr(torch.optim, name)([w], **given)
    for g in gradients(net.n_parameters, dtype, 12):
        optimizer.step(net, g)
        w.grad = torch.tensor(g)
        other.step()
    want = w.detach().numpy()
    np.testing.assert_allclose(net.parameters, want, rtol=0, atol=5 * TOLERANCE[dtype] * max(1,
                                                                                             np.abs(want).max()))


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_train_step_is_value_and_grad_and_a_step(isa, dtype, name, options):
    one, other = make(dtype), make(dtype)
    mine, yours = getattr(fastbp, name)(**options), getattr(fastbp, name)(**options)
    rng = np.random.default_rng(3)
    X, Y, w = (
        rng.normal(size=(9, 3)).astype(dtype),
        rng.normal(size=(9, 2)).astype(dtype),
        rng.uniform(size=9),
    )
    for _ in range(5):
        loss, grad = other.value_and_grad(X, Y, sample_weight=w)
        yours.step(other, grad)
        assert one.train_step(X, Y, mine, sample_weight=w) == loss
        np.testing.assert_allclose(one.parameters, other.parameters, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("name", RULES)
def test_a_nan_gradient_shows_up_in_the_parameters(isa, dtype, name):
    net = make(dtype)
    g = np.zeros(net.n_parameters, dtype)
    g[5] = np.nan
    getattr(fastbp, name)().step(net, g)
    assert np.isnan(net.parameters[5])
    assert np.isfinite(np.delete(net.parameters, 5)).all()


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_training_goes_on_as_before_from_a_copy_of_net_and_optimizer(isa, dtype, name, options):
    net, optimizer = make(dtype), getattr(fastbp, name)(**options)
    rng = np.random.default_rng(4)
    X, Y = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    for _ in range(3):
        net.train_step(X, Y, optimizer)
    twins = [copy.deepcopy((net, optimizer)), pickle.loads(pickle.dumps((net, optimizer)))]
    for _ in range(3):
        net.train_step(X, Y, optimizer)
        for twin, its_optimizer in twins:
            twin.train_step(X, Y, its_optimizer)
    for twin, _ in twins:
        np.testing.assert_array_equal(twin.parameters, net.parameters)


def test_learning_rate_may_be_changed_between_steps(isa, dtype):
    net, optimizer = make(dtype), fastbp.SGD(0.5)
    g = np.ones(net.n_parameters, dtype)
    before = net.parameters.copy()
    optimizer.learning_rate = 0.25
    optimizer.step(net, g)
    np.testing.assert_allclose(net.parameters, before - dtype(0.25), rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_repr_says_how_to_make_it(name, options):
    text = repr(getattr(fastbp, name)(**options))
    assert text.startswith(name + "(")
    for key, value in options.items():
        assert f"{key}={value!r}" in text


BAD = [("learning_rate", v) for v in (-0.1, float("nan"), float("inf"), "fast", None)]
BAD += [("weight_decay", v) for v in (-0.1, float("nan"), "x")]
BAD_MOMENTUM = [("momentum", v) for v in (-0.1, 1.5, float("nan"), "x")]
BAD_BETAS = [(k, v) for k, v in itertools.product(("beta1", "beta2"), (-0.1, 1.0, 2.0, float("nan"), "x"))]
BAD_BETAS += [("eps", v) for v in (-1e-8, float("nan"), "x")]
CASES = [(n, *c) for n in RULES for c in BAD] + [("SGD", *c) for c in BAD_MOMENTUM]
CASES += [(n, *c) for n in ("Adam", "AdamW") for c in BAD_BETAS]


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_a_wrong_setting_is_refused_by_name(name, argument, value):
    with pytest.raises((ValueError, TypeError), match=rf"\b{argument}\b"):
        getattr(fastbp, name)(**{argument: value})


def test_nesterov_wants_momentum():
    with pytest.raises(ValueError, match=r"nesterov.*momentum|momentum.*nesterov"):
        fastbp.SGD(0.1, nesterov=True)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("grad", [np.zeros(3), np.zeros((1, 40)), None, "abc", 1j * np.zeros(37), 0.0])
def test_step_refuses_a_wrong_gradient_and_alters_nothing(name, grad):
    net, optimizer = make(np.float64), getattr(fastbp, name)()
    before = net.parameters.copy()
    with pytest.raises((ValueError, TypeError), match=r"\bgrad\b"):
        optimizer.step(net, grad)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("net", [None, "net", np.zeros(4)])
def test_step_wants_a_net(name, net):
    with pytest.raises((ValueError, TypeError), match=r"\bnet\b"):
        getattr(fastbp, name)().step(net, np.zeros(4))


def test_restored_state_is_a_copy_that_can_be_written(dtype):
    net, adam = make(dtype), fastbp.Adam()
    grads = gradients(net.n_parameters, dtype, 3)
    adam.step(net, grads[0])
    state = adam.__getstate__()
    for vector in state["_restored"]["vectors"]:
        vector.flags.writeable = False  # as joblib.load(..., mmap_mode="r") would leave them
    twin, twin_net = copy.copy(adam), make(dtype)
    twin.__setstate__(state)
    twin_net.parameters[:] = net.parameters
    kept = [vector.copy() for vector in state["_restored"]["vectors"]]
    for g in grads[1:]:
        twin.step(twin_net, g)
    for vector, before in zip(state["_restored"]["vectors"], kept, strict=True):
        np.testing.assert_array_equal(vector, before)
        vector.flags.writeable = True
    for g in grads[1:]:
        adam.step(net, g)
    np.testing.assert_array_equal(twin_net.parameters, net.parameters)


def test_eps_before_the_correction(isa, dtype):
    net, adam = make(dtype), fastbp.Adam(learning_rate=0.1, eps=0.5)
    adam._eps_hat = True
    w, m, v = net.parameters.astype(float), 0, 0
    for t, g in enumerate(gradients(net.n_parameters, dtype, 5), 1):
        adam.step(net, g)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.astype(float) ** 2
        w = w - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 0.5)
    np.testing.assert_allclose(net.parameters, w, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=1e-6)


# ---- the second step: what was in order at the first is not looked at again in Python --------------------------------


def batch(dtype):
    rng = np.random.default_rng(5)
    return rng.normal(size=(9, 3)).astype(dtype), rng.normal(size=(9, 2)).astype(dtype)


@pytest.mark.parametrize("name", RULES)
def test_a_changed_setting_counts_from_the_next_train_step(isa, dtype, name):
    X, Y = batch(dtype)
    one, other = make(dtype), make(dtype)
    mine, yours = (getattr(fastbp, name)(learning_rate=0.01) for _ in range(2))
    for rate, decay in ((0.01, 0.0), (0.1, 0.0), (0.1, 0.5), (0.0, 0.5)):
        mine.learning_rate = yours.learning_rate = rate
        mine.weight_decay = yours.weight_decay = decay
        for _ in range(2):
            yours.step(other, other.value_and_grad(X, Y)[1])
            one.train_step(X, Y, mine)
            np.testing.assert_allclose(one.parameters, other.parameters, rtol=0, atol=TOLERANCE[dtype])


def test_a_later_train_step_checks_what_the_first_did(isa, dtype):
    X, Y = batch(dtype)
    net, adam = make(dtype), fastbp.Adam()
    for _ in range(2):
        net.train_step(X, Y, adam)
    kept = net.parameters.copy()
    other = np.float32 if dtype == np.float64 else np.float64
    for twin in (make(dtype), copy.deepcopy(net), make(other)):
        before = twin.parameters.copy()
        with pytest.raises(ValueError, match="optimizer: it belongs"):
            twin.train_step(X.astype(twin.dtype), Y.astype(twin.dtype), adam)
        np.testing.assert_array_equal(twin.parameters, before)
    for wrong in (None, "adam", net, fastbp.Adam):
        with pytest.raises(TypeError, match="optimizer must be a fastbp optimizer"):
            net.train_step(X, Y, wrong)
    net.parameters.flags.writeable = False
    with pytest.raises(ValueError, match="parameters must be writable"):
        net.train_step(X, Y, adam)
    np.testing.assert_array_equal(net.parameters, kept)
    net.parameters.flags.writeable = True
    net.train_step(X, Y, adam)
    assert adam._state_for(net).steps == 3
    assert (net.parameters != kept).any()


def test_optimizers_take_turns_on_a_net(isa, dtype):
    X, Y = batch(dtype)
    one, other = make(dtype), make(dtype)
    mine, yours = ([fastbp.Adam(), fastbp.SGD(0.1, momentum=0.9), fastbp.AdamW()] for _ in range(2))
    for k in (0, 1, 2, 2, 1, 0, 0):
        one.train_step(X, Y, mine[k])
        yours[k].step(other, other.value_and_grad(X, Y)[1])
        np.testing.assert_allclose(one.parameters, other.parameters, rtol=0, atol=TOLERANCE[dtype])


# ---- Adam's arithmetic -----------------------------------------------------------------------------------------------


def zeroed(dtype, n=37):
    net = fastbp.MLP([n - 1, 1], dtype=dtype)
    net.parameters[:] = 0
    return net


@pytest.mark.parametrize("options", [{}, {"beta1": 0.5, "beta2": 0.9999999, "eps": 1e-3}, {"weight_decay": 0.1}])
def test_adams_steps_are_accurate_for_gradients_of_any_size(isa, dtype, options):
    """From parameters of 0 they are all that is seen; a few ULP."""
    net, adam = zeroed(dtype), fastbp.Adam(learning_rate=1, **options)
    g = (np.random.default_rng(6).choice([-1, 1], size=37) * 10.0 ** np.linspace(-17, 18, 37)).astype(dtype)
    adam.step(net, g)
    exact = {"decoupled": False, "learning_rate": 1, **options}
    want = adam_of(np.longdouble, g, exact)
    np.testing.assert_allclose(net.parameters, want, rtol=16 * np.finfo(dtype).eps, atol=0)


def adam_of(kind, g, options):
    """One step from 0 in extended precision, with the betas as they are in double."""
    return adam(np.zeros(len(g), kind), {}, g.astype(kind), **{k: kind(v) for k, v in options.items()})


def test_adam_at_the_ends_of_the_range(isa, dtype):
    net, adam = zeroed(dtype), fastbp.Adam(learning_rate=1, eps=1e-300)
    large = np.finfo(dtype).max / 4
    g = np.zeros(37, dtype)
    g[:6] = large, -large, np.inf, np.nan, np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    with np.errstate(all="ignore"):
        adam.step(net, g)
    assert (net.parameters[:2] == 0).all()  # their squares overflow: m / inf
    assert np.isnan(net.parameters[2:4]).all()
    assert np.isfinite(net.parameters[4:]).all()
    assert (net.parameters[6:] == 0).all()  # 0 / eps
    adam.step(net, np.zeros(37, dtype))
    assert (net.parameters[:2] == 0).all()
    assert np.isnan(net.parameters[2:4]).all()
    assert (net.parameters[6:] == 0).all()


def test_a_step_is_the_same_from_a_checkpoint_as_without(isa, dtype):
    """The corrections of step t are a function of t, not of the way there."""
    g = gradients(37, dtype, 40)
    net, adam = zeroed(dtype), fastbp.Adam(beta2=0.99)
    for k in range(40):
        if k == 25:
            twin, other = copy.deepcopy((net, adam))
        adam.step(net, g[k])
        if k >= 25:
            other.step(twin, g[k])
            np.testing.assert_array_equal(twin.parameters, net.parameters)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop"])
def test_numbers_that_are_too_large_do_what_they_do_in_torch(name):
    """`Optimizer.step` says what: nan stays nan, an infinite mean of squares stops its parameter alone."""
    torch = pytest.importorskip("torch")
    parameter = torch.nn.Parameter(torch.ones(4))
    theirs = getattr(torch.optim, name)([parameter], lr=0.1, weight_decay=0)
    net, ours = fastbp.MLP([3, 1], dtype=np.float32), getattr(fastbp, name)(0.1, weight_decay=0)
    net.parameters[:] = 1
    for g in ([1e20, 1e22, np.nan, 1], [1, 1, 1, 1], [1, 1, 1, 1]):
        parameter.grad = torch.tensor(np.float32(g))
        theirs.step()
        ours.step(net, np.float32(g))
    np.testing.assert_allclose(net.parameters, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)
    assert net.parameters[1] == 1
    assert np.isnan(net.parameters[2])
