"""The embedding experiment at a tiny size: a worker is killed, and every id is there once."""

import pytest

from experiments.embed_fashion import main


@pytest.mark.slow
def test_every_id_is_there_once_after_a_killed_worker() -> None:
    row = main("tiny")["embed_fashion"]
    assert row["exactly_once"] and row["items"] == 60 and row["left_out"] == 0 and row["shards"] == 8
    assert row["items_per_second"] > 0 and row["share"] > 0
