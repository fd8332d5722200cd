"""Numbers as people read them: three significant digits and a unit.

All renderers of the report use these functions, so the terminal, the Markdown file and the page never disagree.
"""

import math

MISSING = "n/a"
"""Shown where a value is unavailable; the reason is in the records and in the report."""

SPACE = "\u00a0"
"""Between number and unit, so that a line never breaks there."""


def significant(value: float, digits: int = 3) -> str:
    """Format with a number of significant digits and no exponent.

    >>> [significant(x) for x in (0.012345, 8.03, 142.4, 4113.9)]
    ['0.0123', '8.03', '142', '4114']
    """
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    text = f"{value:.{max(0, digits - 1 - magnitude)}f}"
    rounded = math.floor(math.log10(abs(float(text)))) if float(text) else magnitude
    return text if rounded == magnitude else f"{value:.{max(0, digits - 1 - rounded)}f}"


def seconds(value: float | None) -> str:
    """Format a duration: ns, µs, ms, s, min or h.

    >>> seconds(0.142), seconds(8.03), seconds(5400)
    ('142\\xa0ms', '8.03\\xa0s', '1.5\\xa0h')
    """
    if value is None:
        return MISSING
    if value >= 3600:
        return f"{value / 3600:.1f}{SPACE}h"
    if value >= 600:
        return f"{value / 60:.1f}{SPACE}min"
    return _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")))


def size(value: float | None) -> str:
    """Format bytes with decimal prefixes: B, kB, MB, GB, TB.

    >>> size(1_240_000_000), size(1536)
    ('1.24\\xa0GB', '1.54\\xa0kB')
    """
    if value is None:
        return MISSING
    if value < 1000 and float(value).is_integer():
        return f"{int(value)}{SPACE}B"
    return _scaled(value, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")))


def count(value: float | None) -> str:
    """Format a count: k, M, G.

    >>> count(4_113_877), count(512), count(0)
    ('4.11\\xa0M', '512', '0')
    """
    if value is None:
        return MISSING
    if value < 1000 and float(value).is_integer():
        return str(int(value))
    return _scaled(value, ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))).rstrip(SPACE)


def joules(value: float | None) -> str:
    """Format energy: J, kJ, MJ."""
    return MISSING if value is None else _scaled(value, ((1e6, "MJ"), (1e3, "kJ"), (1, "J")))


def fraction(value: float | None, digits: int = 4) -> str:
    """Format a quality or score in 0..1."""
    return MISSING if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 4) -> str:
    """Format a difference with its sign; a true minus sign is used."""
    if value is None:
        return MISSING
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def exact(value: object) -> str:
    """Format a raw value: grouped integers, floats in full short form, missing values as n/a.

    >>> exact(4113877), exact(0.25), exact(None)
    ('4,113,877', '0.25', 'n/a')
    """
    if value is None:
        return MISSING
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{int(value):,}" if value.is_integer() and abs(value) >= 1000 else f"{value:.6g}"
    return str(value)


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    # 999.7 would print as "1000 ms": the comparison uses the rounded value.
    smallest = units[-1] if value else next(pair for pair in units if pair[0] == 1)
    factor, unit = next((pair for pair in units if abs(value) >= pair[0] * 0.9995), smallest)
    return f"{significant(value / factor)}{SPACE}{unit}"
