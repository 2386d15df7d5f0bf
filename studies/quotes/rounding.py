"""Round every number that is quoted in text by one rule."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal

DUST = 1e-16  # what is left of a zero that was computed
SMALLEST = Decimal("1e-4")  # smaller numbers are written with an exponent


def rounded(value: float) -> str:
    """Return a number as it stands in text.

    The rule: two decimals, half up. Below .1 two significant digits; from 10 on one decimal, from 100 on none. No zero
    stands before the point.

    Parameters
    ----------
    value : float
        The number.

    Returns
    -------
    str
        Such as ".41", "-.18", ".029", "1.04", "19.5" or "892"; "0" for zero; "NaN" and "infinite" for what is no
        number.

    Examples
    --------
    >>> rounded(0.125), rounded(0.0287), rounded(41.18)
    ('.13', '.029', '41.2')
    """
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    exact = Decimal(f"{value:.10g}")  # without the dust of binary fractions
    if abs(exact) < DUST:
        return "0"
    if abs(exact) < SMALLEST:
        exponent = exact.adjusted()
        return f"{_half_up(exact.scaleb(-exponent), 1)}e{exponent}"
    shown = _half_up(exact, _decimals(exact))
    shown = _half_up(exact, _decimals(shown))  # .0996 has become .10
    text = f"{shown:f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def between(low: float, high: float) -> str:
    """Return an interval as it stands in text, such as "[.37, .46]"."""
    return f"[{rounded(low)}, {rounded(high)}]"


def with_interval(value: float, low: float, high: float) -> str:
    """Return a number and its interval, or the number alone where there is no interval."""
    return rounded(value) if math.isnan(low) else f"{rounded(value)} {between(low, high)}"


def whole(value: float) -> str:
    """Return a count with commas between thousands, such as "1,392"."""
    return f"{round(value):,}"


def percent(share: float) -> str:
    """Return a share as whole per cent, half up, without the sign."""
    return str(_half_up(Decimal(f"{100 * share:.10g}"), 0))


def _decimals(exact: Decimal) -> int:
    size = exact.adjusted()  # the place of the first digit: 0 for 1 to 9, -1 for .1 to .9
    if size >= 1:
        return max(0, 2 - size)
    return 2 if size >= -1 else 1 - size


def _half_up(exact: Decimal, decimals: int) -> Decimal:
    return exact.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
