"""Where a clip is active, told from z: the numbers between which act(z) > clip and 1 - act(z) > clip, exactly.

log(max(y, c)) needs to know on which side of c the true y lies.  A rounded y cannot tell, but every activation
increases where it is above a clip in (0, 0.5), so that two numbers, made once, decide for all z of a dtype:
y > c where z > z_lo, and 1 - y > c where z < z_hi.
"""

from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from functools import cache
from typing import Any

import numpy as np


def _silu(z: Decimal) -> tuple[Decimal, Decimal]:
    sigma = 1 / (1 + (-z).exp())
    return z * sigma, sigma * (1 + z * (1 - sigma))


def _gelu(z: Decimal) -> tuple[Decimal, Decimal]:
    """With Phi(z) = 1/2 + phi(z) (z + z^3/3 + z^5/(3 5) + ...), z > 0, where nothing cancels"""
    term = total = z
    n, before = 1, Decimal(0)
    while total != before:
        n, before = n + 2, total
        term = term * z * z / n
        total += term
    density = (-z * z / 2).exp() / (2 * _pi()).sqrt()
    phi = Decimal("0.5") + total * density
    return z * phi, phi + z * density


def _pi() -> Decimal:
    """Machin: 16 atan(1/5) - 4 atan(1/239)"""
    total = Decimal(0)
    for factor, x in (16, 5), (-4, 239):
        power, n, before = Decimal(factor) / x, 1, None
        while total != before:
            before = total
            total += power / n
            power, n = -power / (x * x), n + 2
    return total


def _solve(function: Callable[[Decimal], tuple[Decimal, Decimal]], y: Decimal) -> Decimal:
    """The z with function(z)[0] = y, 0 < y < 1, by Newton.

    The start is beyond it, for the function is at least z / 2, and is 1 before z = 1.4; it is convex up to there, so
    every step stays beyond, until rounding stops it.
    """
    z, before = min(2 * y, Decimal("1.4")), None
    while before is None or z < before:
        value, slope = function(z)
        before, z = z, z - (value - y) / slope
    return before


# activation: the z with act(z) = y, given y and 1 - y, both in (0, 1) and each with all its digits
_INVERSES: dict[str, Callable[[Decimal, Decimal], Decimal]] = {
    "identity": lambda y, rest: y,
    "sigmoid": lambda y, rest: (y / rest).ln(),
    "tanh": lambda y, rest: ((1 + y) / rest).ln() / 2,
    "relu": lambda y, rest: y,
    "leaky_relu": lambda y, rest: y,
    "elu": lambda y, rest: y,
    "softplus": lambda y, rest: (y.exp() - 1).ln(),
    "gelu": lambda y, rest: _solve(_gelu, y),
    "silu": lambda y, rest: _solve(_silu, y),
    "exp": lambda y, rest: y.ln(),
}


def _toward(z: Decimal, dtype: np.dtype[Any], direction: int) -> float:
    """The dtype's number nearest to z that is not on the other side of it"""
    number = dtype.type(float(z))
    beyond = Decimal(float(number)) < z if direction > 0 else Decimal(float(number)) > z
    return float(np.nextafter(number, dtype.type(direction * np.inf)) if beyond else number)


@cache
def clip_edges(output_activation: str, clip: float, dtype: Any) -> tuple[float, float]:
    """(z_lo, z_hi), numbers of the dtype: act(z) > clip where z > z_lo, 1 - act(z) > clip where z < z_hi.

    output_activation: any name but softmax, whose outputs do not depend on one z each.  0 < clip < 0.5.
    """
    dtype = np.dtype(dtype)
    c = Decimal(clip)
    inverse = _INVERSES.get(output_activation)
    if inverse is None:
        raise NotImplementedError(f"{output_activation}: _INVERSES in fastbp/_clip.py has no row that tells its clip")
    # 60 digits past those of the clip^3 by which atanh(clip) differs from clip
    with localcontext(Context(prec=60 + 3 * max(0, -c.adjusted()), Emin=-9999, Emax=9999)):
        rest = 1 - c
        return _toward(inverse(c, rest), dtype, -1), _toward(inverse(rest, c), dtype, +1)
