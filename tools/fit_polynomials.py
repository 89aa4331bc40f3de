"""Writes src/fastbp/polynomials.h: `python tools/fit_polynomials.py > src/fastbp/polynomials.h`

Needs mpmath; takes a minute.  A fit is minimax in the weighted (mostly relative) error: least squares on Chebyshev
nodes whose weights are multiplied by the error (Lawson) until it is level.  Then the coefficients are rounded to the
dtype one by one, lowest power first, and the others fitted again, so that rounding one is made good by the rest.
"""
import struct

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
    weighted = [[w * v for w, v in zip(weights, column, strict=False)] for column in columns]
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
        weights = [w * e for w, e in zip(weights, error, strict=False)]
        total = sum(weights)
        weights = [w / total + mpf(10) ** -30 for w in weights]
    return best


def fit(f, unit, low, high, count, dtype, variable=lambda x: x, fixed=()):
    """c with sum_j c_j variable(x)^j close to f(x), the error measured in unit(x); the first c may be given."""
    x = nodes(low, high, 6 * count + 10)
    units = [unit(v) for v in x]
    columns = [[variable(v) ** j / u for v, u in zip(x, units, strict=False)] for j in range(count)]
    rest = [f(v) / u for v, u in zip(x, units, strict=False)]
    rounded = list(fixed)
    for c, column in zip(rounded, columns, strict=False):
        rest = [r - c * v for r, v in zip(rest, column, strict=False)]
    while len(rounded) < count:
        c = round_to(minimax(columns[len(rounded):], rest)[1][0], dtype)
        rest = [r - c * v for r, v in zip(rest, columns[len(rounded)], strict=False)]
        rounded.append(c)
    return rounded, max(map(abs, rest))


def fit_ratio(f, unit, low, high, top, bottom, first, dtype, rounds=12):
    """P of `top` and Q of `bottom` coefficients, Q's first given, with P/Q close to f, the error in unit(x)."""
    x = nodes(low, high, 8 * (top + bottom))
    x = [mpf(low) + (v - low) ** 2 / (mpf(high) - low) for v in x]      # denser near low
    y, units = [f(v) for v in x], [unit(v) for v in x]
    q = [mpf(1)] * len(x)
    weights = [mpf(1)] * len(x)
    best = None
    for step in range(rounds * 4):
        # P - y Q over the Q of the step before: linear in the coefficients, and in the end the wanted error
        columns = [[v ** j / (u * qi) for v, u, qi in zip(x, units, q, strict=False)] for j in range(top)]
        columns += [[-yi * v ** j / (u * qi) for v, yi, u, qi in zip(x, y, units, q, strict=False)]
                    for j in range(1, bottom)]
        c = least_squares(columns, [yi / (u * qi) for yi, u, qi in zip(y, units, q, strict=False)], weights)
        q = [mp.polyval(([1, *c[top:]])[::-1], v) for v in x]
        error = [abs(mp.polyval(c[:top][::-1], v) / b - yi) / u for v, b, yi, u in zip(x, q, y, units, strict=False)]
        if best is None or max(error) < best[0]:
            best = max(error), c
        if step >= rounds:
            weights = [w * e for w, e in zip(weights, error, strict=False)]
            total = sum(weights)
            weights = [w / total + mpf(10) ** -30 for w in weights]
    c = [round_to(first * v, dtype) for v in best[1]]
    p, q = c[:top], [round_to(first, dtype), *c[top:]]
    error = max(abs(mp.polyval(p[::-1], v) / mp.polyval(q[::-1], v) - yi) / u
                for v, yi, u in zip(x, y, units, strict=False))
    return p, q, error


def log2_of(error):
    return f"2^{mp.nstr(mp.log(error, 2), 4)}"


def atanh_rest(s):
    """(log((1 + s) / (1 - s)) - 2 s) / s^3"""
    return (2 * mp.atanh(s) - 2 * s) / s**3


def expm1_rest(r):
    """(expm1(r) - r) / r^2"""
    return (mp.expm1(r) - r) / r**2 if abs(r) > 1e-9 else mpf(1) / 2 + r / 6


def mills(t):
    """The normal distribution's tail over sqrt(2 pi) times its density: exp(t^2 / 2) Phi(-t)"""
    return mp.exp(t * t / 2) * mp.erfc(t / mp.sqrt(2)) / 2


def split_constant(value, dtype, zero_bits):
    """high + low = value, high with so many zero bits at its end that small integers times high are exact."""
    bits = (24 if dtype == "f32" else 53) - zero_bits
    scale = mpf(2) ** (bits - 1 - mp.floor(mp.log(value, 2)))
    high = mp.nint(value * scale) / scale
    return high, round_to(value - high, dtype)


def tables(dtype):
    """(comment, name, coefficients) of every table, and (comment, name, number) of every constant."""
    f32 = dtype == "f32"
    ln2 = mp.log(2)
    reach = ln2 / 2 * mpf("1.001")      # r = x - n log(2) lies within log(2) / 2, up to rounding
    tiny = mpf(10) ** -3

    c, error = fit(expm1_rest, lambda r: abs(mp.expm1(r) / r**2), -reach, reach, 5 if f32 else 10, dtype)
    yield f"expm1(r) = r + r^2 P(r), |r| <= log(2) / 2; {log2_of(error)}", "EXP_P", c

    c, error = fit(atanh_rest, lambda s: 2 / s**2, tiny, mpf("0.1717"), 3 if f32 else 7, dtype,
                   variable=lambda s: s * s)
    yield f"log((1 + s) / (1 - s)) = 2 s + s^3 R(s^2), |s| <= 3 - sqrt 8; {log2_of(error)}", "LOG_R", c

    c, error = fit(atanh_rest, lambda s: 2 / s**2, tiny, mpf("0.33334"), 5 if f32 else 10, dtype,
                   variable=lambda s: s * s)
    yield f"the same for |s| <= 1/3; {log2_of(error)}", "LOG_WIDE_R", c

    terms = 5 if f32 else 10
    peak = round_to(1 / mp.sqrt(2 * mp.pi), dtype)      # as rounded, so that near 0 no error remains
    # Q begins with 2, so that P begins with 4 peak, which is exact
    p, q, error = fit_ratio(lambda t: peak / mills(t) - t, lambda t: peak / mills(t), 0, 15 if f32 else 39,
                            terms, terms + 1, 2, dtype)
    yield f"exp(t^2/2) Phi(-t) = NORMAL_PEAK Q(t) / (t Q(t) + P(t)), t >= 0; {log2_of(error)}", "MILLS_P", p
    yield "", "MILLS_Q", q

    for name, y in (("SOFTPLUS", lambda z: mp.log1p(mp.exp(z))), ("GELU", lambda z: z * mp.ncdf(z)),
                    ("SILU", lambda z: z / (1 + mp.exp(-z)))):
        one = mp.findroot(lambda z, y=y: y(z) - 1, 1)
        high = round_to(one, dtype)

        def slope(d, y=y, one=one):
            return (1 - y(one + d)) / d if abs(d) > mpf(10) ** -20 else -mp.diff(y, one)

        c, error = fit(slope, lambda d, slope=slope: abs(slope(d)), mpf(-0.25), mpf(0.25), 6 if f32 else 13, dtype)
        yield f"where {name.lower()} is 1", f"{name}_ONE_HIGH", high
        yield "", f"{name}_ONE_LOW", round_to(one - high, dtype)
        yield f"1 - {name.lower()} = d T(d), d = z - that, |d| <= 1/4; {log2_of(error)}", f"{name}_ONE_T", c

    high, low = split_constant(ln2, dtype, 8 if f32 else 12)
    yield "log 2; n * high is exact for the n that occur", "LOG2_HIGH", high
    yield "", "LOG2_LOW", low
    yield "1 / log 2", "INVERSE_LOG2", round_to(1 / ln2, dtype)
    yield "sqrt(1/2), where the logarithm's mantissas begin", "SQRT_HALF", round_to(mp.sqrt(mpf(1) / 2), dtype)
    yield "1 / sqrt(2 pi)", "NORMAL_PEAK", peak


def c_number(value, dtype):
    return f"{float(value)!r}f" if dtype == "f32" else repr(float(value))


def main():
    print("/* Written by tools/fit_polynomials.py: coefficients, lowest power first, and the largest relative error of"
          "\n * the function that they are for.  Constants are macros, so that the compiler folds them. */")
    print("#ifndef FASTBP_POLYNOMIALS_H\n#define FASTBP_POLYNOMIALS_H\n")
    for dtype in "f32", "f64":
        print("#ifdef FASTBP_F32" if dtype == "f32" else "#else")
        for comment, name, value in tables(dtype):
            if comment:
                print(f"/* {comment} */")
            if isinstance(value, list):
                print(f"#define {name}_TERMS {len(value)}")
                print(f"static const real {name}[] = {{")
                print("".join(f"    {c_number(c, dtype)},\n" for c in value) + "};")
            else:
                print(f"#define {name} {c_number(value, dtype)}")
    print("#endif\n\n#endif")


if __name__ == "__main__":
    main()
