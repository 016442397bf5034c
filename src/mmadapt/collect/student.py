"""Student's t distribution for whole degrees of freedom, by its finite series.

Abramowitz & Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4. An interval over a few seeds needs
no more, and importing SciPy would take longer than the tables.
"""

from __future__ import annotations

import math


def probability(t: float, df: int) -> float:
    """Return ``P(|T| ≤ t)`` for ``df ≥ 1`` degrees of freedom and ``t ≥ 0``."""
    if math.isinf(t):
        return 1.0
    angle = math.atan2(t, math.sqrt(df))
    sine, cosine2 = math.sin(angle), math.cos(angle) ** 2
    term = total = 1.0 if df % 2 == 0 else math.cos(angle)
    for k in range(2 if df % 2 == 0 else 3, df, 2):
        term *= cosine2 * (k - 1) / k
        total += term
    if df % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if df > 1 else 0.0))


def quantile(level: float, df: int) -> float:
    """Return the t below which ``|T|`` stays with probability ``level``: 4.303 for 95 % and df = 2.

    Raises:
        ValueError: If ``level`` is not in [0, 1) or ``df < 1``.
    """
    if not 0 <= level < 1 or df < 1:
        raise ValueError(f"no quantile for level {level} and {df} degrees of freedom")
    low, high = 0.0, 1.0
    while probability(high, df) < level:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if probability(middle, df) < level else (low, middle)
    return high


def interval(values: list[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean and the ends of its two-sided interval, infinite for a single value.

    The half width is ``t · s / √n`` with the sample standard deviation s (ddof = 1) and n - 1 degrees of freedom.
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = quantile(level, n - 1) * deviation / math.sqrt(n)
    return mean, mean - half, mean + half
