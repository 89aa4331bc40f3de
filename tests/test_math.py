"""Elementary functions within 2 ULP and activations within 4, over their whole range, for every variant.

An ULP is the spacing of floats at the true value, subnormals included. float64 is judged by mpmath and, where
NumPy has an 80-bit long double, by many more points in it; float32 by float64.
Derivatives are held to 4 ULP too. Those of gelu, Phi(z) + z phi(z), and silu, s(z) + z s(z) s(-z), cross zero
near z = -0.75 and z = -1.28, where their two terms cancel: for them an ULP is that of |first| + |second|.
"""

from functools import cache

import numpy as np
import pytest
import reference
import truth

from fastbp import _dispatch

ELEMENTARY = ("exp", "log", "log1p", "expm1", "tanh", "sigmoid")
ACTIVATIONS = tuple(a for a in reference.ELEMENTWISE if a not in ELEMENTARY)
DERIVATIVES = tuple(a + "'" for a in reference.ELEMENTWISE)
NAMES = ELEMENTARY + ACTIVATIONS + DERIVATIVES
LONG = np.longdouble
HAS_LONG_DOUBLE = np.finfo(LONG).nmant >= 63


def limit(name):
    return 2 if name in ELEMENTARY else 4


def run(kernels, name, x):
    out = np.full_like(x, 7)
    kernels.vmath(name, x, out)
    return out


def special_places(dtype):
    """Ends of ranges, kinks, zeros of functions and of derivatives, and where algorithms like to change over."""
    info = np.finfo(dtype)
    ends = [info.max, info.tiny, np.log(info.max), np.log(info.tiny), np.log(info.smallest_subnormal)]
    return [*ends, 0.0, 1.0, -1.0, 0.5, 2.0, np.log(2.0), np.sqrt(0.5), np.sqrt(2.0), -0.75179152,
            -1.27846454]


@np.errstate(over="ignore", invalid="ignore")
def points(name, dtype, n):
    """Random bit patterns, uniform over the interesting range, and the neighbours of every special place."""
    rng = np.random.default_rng(len(name) + n)
    info = np.finfo(dtype)
    bits = rng.integers(0, 2**info.bits, size=n, dtype=np.uint64).astype(f"u{info.bits // 8}").view(dtype)
    wide = 800 if dtype == np.float64 else 110
    sign = rng.choice([-1.0, 1.0], size=n)
    parts = [bits, rng.uniform(-wide, wide, n), sign * 10.0 ** rng.uniform(-20, 3, n), rng.normal(size=n)]
    for place in special_places(dtype):
        for towards in (-np.inf, np.inf):
            near = dtype(place)
            for _ in range(20):
                parts.append([near])
                near = np.nextafter(near, dtype(towards))
    x = np.concatenate(parts).astype(dtype)
    x = x[np.isfinite(x)]
    if name == "log":
        x = np.abs(x[x != 0])
    if name == "log1p":
        x = x[x > -1]
    return x


def ulp(x, dtype):
    """The spacing of dtype's floats at |x|, as float64."""
    info = np.finfo(dtype)
    _, exponent = np.frexp(np.abs(np.asarray(x, np.float64)))
    return np.ldexp(1.0, np.maximum(exponent - 1, info.minexp) - info.nmant)


@cache
def float64_truth(name):
    """Points, true values rounded to float64, what the rounding left in ULP, and the ULP of each point."""
    x, mp = points(name, np.float64, 500), truth.mp
    high, low, unit = [], [], []
    for value in x:
        if name in ("exp", "log", "log1p", "expm1"):
            want = scale = getattr(mp, name)(mp.mpf(float(value)))
        else:
            p = truth.point(name.removesuffix("'"), float(value))
            want, scale = (p.slope, p.slope_scale) if name.endswith("'") else (p.y, p.y)
        high.append(float(want))
        unit.append(ulp(float(abs(scale)), np.float64))
        low.append(float((want - mp.mpf(high[-1])) / mp.mpf(unit[-1])) if np.isfinite(high[-1]) else 0.0)
    return x, np.array(high), np.array(low), np.array(unit)


def assert_within(bound, got, high, low, unit, x, name):
    """|got - (high + low * unit)| is at most bound * unit; infinities only where they belong."""
    finite = np.isfinite(high)
    np.testing.assert_array_equal(got[~finite], high[~finite], err_msg=name)
    x, got, high = x[finite], got[finite], high[finite]
    error = np.abs((got - high) / unit[finite] - low[finite])
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= bound, f"{name}({x[worst]!r}) is {got[worst]!r}, {error[worst]:.2f} ULP from the truth"


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_within_its_bound_of_mpmath(isa, name):
    kernels = _dispatch.load(isa, np.dtype(np.float64))
    x, *want = float64_truth(name)
    assert_within(limit(name), run(kernels, name, x), *want, x, name)


def in_long_double(name, x):
    with np.errstate(all="ignore"):
        x = x.astype(LONG)
        e = np.exp(-np.abs(x))
        if name in ("sigmoid", "softplus'"):
            return np.where(x >= 0, LONG(1), e) / (1 + e)
        if name == "softplus":
            return np.maximum(x, 0) + np.log1p(e)
        if name == "silu":
            return x * (np.where(x >= 0, LONG(1), e) / (1 + e))
        if name == "elu":
            return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        if name == "sigmoid'":
            return e / (1 + e) ** 2
        if name == "tanh'":
            return 4 * e * e / (1 + e * e) ** 2
        return getattr(np, name)(x)


LONG_NAMES = (*ELEMENTARY, "softplus", "silu", "elu", "sigmoid'", "softplus'", "tanh'")


@pytest.mark.skipif(not HAS_LONG_DOUBLE, reason="NumPy's long double is no wider than double here")
@pytest.mark.parametrize("name", LONG_NAMES)
def test_float64_is_within_its_bound_of_80_bits_at_a_hundred_thousand_points(isa, name):
    kernels = _dispatch.load(isa, np.dtype(np.float64))
    x = points(name, np.float64, 30_000)
    with np.errstate(over="ignore"):
        want = in_long_double(name, x)
        high = want.astype(np.float64)
    unit = ulp(high, np.float64)
    with np.errstate(invalid="ignore"):
        low = np.where(np.isfinite(high), (want - high) / unit, 0).astype(np.float64)
    assert_within(limit(name) + 0.01, run(kernels, name, x), high, low, unit, x, name)


def in_double(name, x):
    """(value, scale) by NumPy and SciPy in float64, for judging float32."""
    x = x.astype(np.float64)
    with np.errstate(all="ignore"):
        if name in ("exp", "log", "log1p", "expm1"):
            value = getattr(np, name)(x)
            return value, np.abs(value)
        base = name.removesuffix("'")
        if name == base:
            value = reference.activate(name, x)
            return value, np.abs(value)
        value = reference.derivative(base, x)
        if base == "gelu":
            return value, reference.normal_cdf(x) + np.abs(x * reference.normal_density(x))
        if base == "silu":
            return value, reference.sigmoid(x) * (1 + np.abs(x) * reference.sigmoid(-x))
        return value, np.abs(value)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_within_its_bound_of_float64_at_300_000_points(isa, name):
    dtype, kernels = np.float32, _dispatch.load(isa, np.dtype(np.float32))
    x = points(name, np.float32, 80_000)
    want, scale = in_double(name, x)
    with np.errstate(invalid="ignore"):
        want = np.where(np.abs(want) >= 2.0**128 - 2.0**103, np.sign(want) * np.inf, want)
    assert_within(limit(name) + 0.01, run(kernels, name, x), want, np.zeros_like(want), ulp(scale, dtype), x,
                  name)


SPECIAL = {  # value at -inf, at inf
    "exp": (0, np.inf),
    "log": (np.nan, np.inf),
    "log1p": (np.nan, np.inf),
    "expm1": (-1, np.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "identity": (-np.inf, np.inf),
    "relu": (0, np.inf),
    "leaky_relu": (-np.inf, np.inf),
    "elu": (-1, np.inf),
    "softplus": (0, np.inf),
    "gelu": (0, np.inf),
    "silu": (0, np.inf),
    "identity'": (1, 1),
    "sigmoid'": (0, 0),
    "tanh'": (0, 0),
    "relu'": (0, 1),
    "leaky_relu'": (0.01, 1),
    "elu'": (0, 1),
    "softplus'": (0, 1),
    "gelu'": (0, 1),
    "silu'": (0, 1),
    "exp'": (0, np.inf),
}


@pytest.mark.parametrize("name", NAMES)
def test_infinities_give_the_limit(isa, kernels, dtype, name):
    got = run(kernels, name, np.array([-np.inf, np.inf], dtype))
    np.testing.assert_array_equal(got, np.array(SPECIAL[name], dtype))


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("identity'", "relu'", "leaky_relu'")])
def test_nan_gives_nan_and_leaves_its_neighbours_alone(isa, kernels, dtype, name):
    x = np.linspace(0.1, 0.9, 40).astype(dtype)
    clean = run(kernels, name, x)
    for place in (0, 1, 7, 8, 20, 39):
        dirty = x.copy()
        dirty[place] = np.nan
        got = run(kernels, name, dirty)
        assert np.isnan(got[place])
        np.testing.assert_array_equal(np.delete(got, place), np.delete(clean, place))


def test_log_has_its_pole_at_zero_and_is_nan_below(isa, kernels, dtype):
    x = np.array([0.0, -0.0, -1e-30, -1.0, -np.finfo(dtype).smallest_subnormal], dtype)
    np.testing.assert_array_equal(run(kernels, "log", x), [-np.inf, -np.inf, np.nan, np.nan, np.nan])
    x = np.array([-1.0, np.nextafter(dtype(-1), dtype(-2)), -3.0], dtype)
    np.testing.assert_array_equal(run(kernels, "log1p", x), [-np.inf, np.nan, np.nan])


@pytest.mark.parametrize("name", ["log1p", "expm1", "tanh"])
def test_odd_functions_keep_the_sign_of_zero(isa, kernels, dtype, name):
    got = run(kernels, name, np.array([0.0, -0.0], dtype))
    np.testing.assert_array_equal(got, 0)
    np.testing.assert_array_equal(np.signbit(got), [False, True])


def test_derivatives_at_kinks_are_those_documented(isa, kernels, dtype):
    for name, want in (("relu'", 0.0), ("leaky_relu'", 0.01), ("elu'", 1.0)):
        np.testing.assert_array_equal(run(kernels, name, np.array([0.0, -0.0], dtype)), dtype(want))


@pytest.mark.parametrize("name", NAMES)
def test_value_does_not_depend_on_the_place_in_the_array_nor_its_length(isa, kernels, dtype, name):
    x = np.random.default_rng(3).uniform(0.01, 5, size=80).astype(dtype)
    whole = run(kernels, name, x)
    for start in (0, 1, 3):
        for n in range(71):
            guarded = np.full(n + 16, 7, dtype)
            kernels.vmath(name, x[start : start + n], guarded[8 : 8 + n])
            np.testing.assert_array_equal(guarded[8 : 8 + n], whole[start : start + n])
            assert np.all(guarded[:8] == 7)
            assert np.all(guarded[8 + n :] == 7)
