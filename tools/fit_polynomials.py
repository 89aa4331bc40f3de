"""Regenerate every polynomial in src/fastbp/_math.pxd and _activations.pxd; prints coefficients and errors.

Needs mpmath.  A fit is minimax in the weighted (mostly relative) error: least squares on Chebyshev nodes whose
weights are multiplied by the error (Lawson) until it is level.  Then the coefficients are rounded to the dtype one
by one, lowest power first, and the others fitted again, so that rounding one is made good by the rest.
"""
import struct
import sys

from mpmath import mp, mpf

mp.dps = 50


def round_to(value, dtype):
    if dtype == "f64":
        return mpf(float(value))
    return mpf(struct.unpack("f", struct.pack("f", float(value)))[0])


def nodes(low, high, count):
    middle, half = (mpf(low) + high) / 2, (mpf(high) - low) / 2
    return [middle + half * mp.cos(mp.pi * (2 * i + 1) / (2 * count)) for i in range(count)]


def least_squares(columns, target, weights):
    """The c that minimises sum of weights * (sum_j c_j columns_j - target)^2."""
    n = len(columns)
    matrix, right = mp.matrix(n, n), mp.matrix(n, 1)
    weighted = [[w * v for w, v in zip(weights, column)] for column in columns]
    for i in range(n):
        right[i] = mp.fdot(weighted[i], target)
        for j in range(i, n):
            matrix[i, j] = matrix[j, i] = mp.fdot(weighted[i], columns[j])
    return list(mp.lu_solve(matrix, right))


def minimax(columns, target, rounds=40):
    """Least squares with Lawson's weights; columns and target are already divided by the wanted error's unit."""
    weights = [mpf(1)] * len(target)
    best = None
    for _ in range(rounds):
        c = least_squares(columns, target, weights)
        error = [abs(mp.fdot(c, [column[i] for column in columns]) - target[i]) for i in range(len(target))]
        if best is None or max(error) < best[0]:
            best = max(error), c
        weights = [w * e for w, e in zip(weights, error)]
        total = sum(weights)
        weights = [w / total + mpf(10) ** -30 for w in weights]
    return best


def fit(f, unit, low, high, count, dtype, variable=lambda x: x, fixed=()):
    """c with sum_j c_j variable(x)^j close to f(x), the error measured in unit(x); the first c may be given."""
    x = nodes(low, high, 6 * count + 10)
    units = [unit(v) for v in x]
    columns = [[variable(v) ** j / u for v, u in zip(x, units)] for j in range(count)]
    rest = [f(v) / u for v, u in zip(x, units)]
    rounded = list(fixed)
    for c, column in zip(rounded, columns):
        rest = [r - c * v for r, v in zip(rest, column)]
    while len(rounded) < count:
        c = round_to(minimax(columns[len(rounded):], rest)[1][0], dtype)
        rest = [r - c * v for r, v in zip(rest, columns[len(rounded)])]
        rounded.append(c)
    return rounded, max(map(abs, rest))


def fit_ratio(f, low, high, top, bottom, dtype, rounds=12):
    """P of `top` and Q of `bottom` coefficients, Q's first 1, with P/Q close to f relatively."""
    x = nodes(low, high, 8 * (top + bottom))
    x = [mpf(low) + (v - low) ** 2 / (mpf(high) - low) for v in x]      # denser near low
    y = [f(v) for v in x]
    q = [mpf(1)] * len(x)
    weights = [mpf(1)] * len(x)
    best = None
    for step in range(rounds * 4):
        columns = [[v ** j / (yi * qi) for v, yi, qi in zip(x, y, q)] for j in range(top)]
        columns += [[-(v ** j) / qi for v, qi in zip(x, q)] for j in range(1, bottom)]
        c = least_squares(columns, [1 / qi for qi in q], weights)
        p_now = [mp.polyval(c[:top][::-1], v) for v in x]
        q = [mp.polyval(([1] + c[top:])[::-1], v) for v in x]
        error = [abs(a / b / yi - 1) for a, b, yi in zip(p_now, q, y)]
        if best is None or max(error) < best[0]:
            best = max(error), c
        if step >= rounds:
            weights = [w * e for w, e in zip(weights, error)]
            total = sum(weights)
            weights = [w / total + mpf(10) ** -30 for w in weights]
    c = [round_to(v, dtype) for v in best[1]]
    p, q = c[:top], [mpf(1)] + c[top:]
    error = max(abs(mp.polyval(p[::-1], v) / mp.polyval(q[::-1], v) / yi - 1) for v, yi in zip(x, y))
    return p, q, error


def show(name, coefficients, error):
    print(f"{name}: error {mp.nstr(error, 3)} = 2^{mp.nstr(mp.log(error, 2), 4)}")
    for c in coefficients:
        print(f"    {float(c)!r}")


def main(wanted):
    ln2 = mp.log(2)
    for dtype in "f32", "f64":
        f32 = dtype == "f32"
        if "exp" in wanted:
            # expm1(r) = r + r^2 P(r), relative to expm1
            def rest(r):
                return mp.expm1(r) / r**2 - 1 / r if abs(r) > 1e-9 else mpf(1) / 2 + r / 6
            show(f"exp {dtype}", *fit(rest, lambda r: abs(mp.expm1(r) / r**2), -ln2 * 1.004, ln2 * 1.004,
                                      6 if f32 else 12, dtype, fixed=[mpf(0.5)]))
        if "ratio" in wanted:
            # exp(r) = (Q + r) / (Q - r) with Q = r coth(r/2), in r^2; the unit makes it the relative error of exp
            show(f"ratio {dtype}", *fit(lambda r: r * mp.coth(r / 2), lambda r: 2 / r, mpf(10) ** -3, ln2 * 1.004,
                                        4 if f32 else 7, dtype, variable=lambda r: r * r, fixed=[mpf(2)]))
        def atanh_rest(s):
            """(log((1 + s)/(1 - s)) - 2 s) / s^3"""
            return (2 * mp.atanh(s) - 2 * s) / s**3
        if "log" in wanted:
            # log(1 + f) = 2 s + s^3 R(s^2), s = f / (2 + f), f in [sqrt(1/2) - 1, sqrt(2) - 1]
            show(f"log {dtype}", *fit(atanh_rest, lambda s: 2 / s**2, mpf(10) ** -3, mpf("0.1717"),
                                      4 if f32 else 7, dtype, variable=lambda s: s * s))
            # the same for f in [0, 1]
            show(f"log1p {dtype}", *fit(atanh_rest, lambda s: 2 / s**2, mpf(10) ** -3, mpf("0.33334"),
                                        6 if f32 else 11, dtype, variable=lambda s: s * s))
        if "gelu" in wanted:
            # exp(t^2/2) Phi(-t) = P(t) / Q(t), t >= 0
            def mills(t):
                return mp.exp(t * t / 2) * mp.erfc(t / mp.sqrt(2)) / 2
            top = 5 if f32 else 10
            p, q, error = fit_ratio(mills, 0, 15 if f32 else 39, top, top + 1, dtype)
            show(f"gelu P {dtype}", p, error)
            show(f"gelu Q {dtype}", q, error)
        if "root" in wanted:
            # 1 - y = d R(d), d = z - z1, where y(z1) = 1
            for name, y in (("softplus", lambda z: mp.log1p(mp.exp(z))), ("gelu", lambda z: z * mp.ncdf(z)),
                            ("silu", lambda z: z / (1 + mp.exp(-z)))):
                root = mp.findroot(lambda z: y(z) - 1, 1)
                high = round_to(root, dtype)
                def slope(d):
                    return (1 - y(root + d)) / d if abs(d) > mpf(10) ** -20 else -mp.diff(y, root)
                c, error = fit(slope, lambda d: abs(slope(d)), mpf(-0.25), mpf(0.25), 6 if f32 else 11, dtype)
                print(f"root {name} {float(high)!r} + {float(round_to(root - high, dtype))!r}")
                show(f"root {name} {dtype}", c, error)


main(sys.argv[1:] or ["exp", "ratio", "log", "gelu", "root"])
