"""The metrics script at a tiny size."""

import pytest

from experiments.speed_metrics import drawn, main, ranx


def test_it_prints_its_row(capsys) -> None:
    row = main("tiny", pairs=1)
    assert row["name"] == "ranx" and row["difference"] == 0 and row["looking_up_ms"] > 0
    assert capsys.readouterr().out.count('"name": "ranx"') == 1


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")  # numba's, about the peer's own code
def test_the_peer_says_the_same() -> None:
    pytest.importorskip("ranx", reason="the peer is not installed: pip install -e '.[peers]'")
    from erel_jax.metrics import judged_lists, list_metrics
    from experiments.speed_metrics import SAME

    lists = drawn(50, 20, 500)
    assert ranx(*lists)() == pytest.approx(list_metrics(judged_lists(*lists), tuple(SAME)), abs=1e-6)
