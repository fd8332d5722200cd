"""Numbers as people read them."""

import pytest

from erel_jax.benchmark.report import quantities as q


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (q.seconds(0.142), "142 ms"),
        (q.seconds(0.9999), "1.00 s"),
        (q.seconds(0.00004123), "41.2 µs"),
        (q.seconds(3e-10), "0.300 ns"),
        (q.seconds(599.0), "599 s"),
        (q.seconds(750.0), "12.5 min"),
        (q.seconds(7200.0), "2.0 h"),
        (q.seconds(0.0), "0 s"),
        (q.seconds(None), "n/a"),
        (q.size(999_700), "1.00 MB"),
        (q.size(0), "0 B"),
        (q.size(0.5), "0.500 B"),
        (q.size(1.31e9), "1.31 GB"),
        (q.count(194_897_216), "195 M"),
        (q.count(0), "0"),
        (q.count(5), "5"),
        (q.size(8.0), "8 B"),
        (q.seconds(8.0), "8.00 s"),
        (q.count(9.995e2), "1.00 k"),
        (q.joules(12_345.0), "12.3 kJ"),
        (q.fraction(0.08371), "0.0837"),
        (q.fraction(None), "n/a"),
        (q.signed(-0.0066), "\u22120.0066"),
        (q.signed(0.0034), "+0.0034"),
        (q.significant(0.09996), "0.100"),
        (q.significant(-0.5), "-0.500"),
        (q.exact(1e9), "1,000,000,000"),
        (q.exact(0.1234567), "0.123457"),
        (q.exact("peak RSS"), "peak RSS"),
    ],
)
def test_formats(text, expected):
    assert text.replace(q.SPACE, " ") == expected
