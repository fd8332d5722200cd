"""Learnability and JEST against brute-force NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.errors import ConfigError
from erel_jax.selection import ScoringModel, learnability, most_learnable, select_jointly

B = 24


def _model(seed, width, log_scale, bias, count=B):
    queries, items = np.random.default_rng(seed).normal(size=(2, count, width)).astype(np.float32)
    return ScoringModel(jnp.asarray(queries), jnp.asarray(items), log_scale, bias)


def _losses(model):
    """The whole matrix of sigmoid losses, in float64."""
    queries, items = (np.asarray(side, np.float64) for side in model[:2])
    queries, items = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (queries, items))
    logits = np.exp(model.log_scale) * queries @ items.T + model.bias
    sign = 2 * np.eye(len(queries)) - 1
    return np.log1p(np.exp(-sign * logits))


def _brute_force(scores, count, chunks, noise):
    chosen: list[int] = []
    for chunk in range(chunks):
        values = np.array(
            [
                scores[j, j] + sum(scores[i, j] + scores[j, i] for i in chosen) + noise[chunk, j]
                if j not in chosen
                else -np.inf
                for j in range(len(scores))
            ]
        )
        chosen += np.argsort(-values, kind="stable")[: count // chunks].tolist()
    return chosen


LEARNER, REFERENCE = _model(0, 5, 1.0, -1.0), _model(1, 7, 2.0, -2.0)
jointly = jax.jit(select_jointly, static_argnames=("count", "chunks"))


@pytest.mark.parametrize("chunks", [1, 4])
def test_joint_choice_equals_brute_force(chunks):
    scores = _losses(LEARNER) - _losses(REFERENCE)
    found = jointly(LEARNER, REFERENCE, count=12, chunks=chunks)
    assert found.tolist() == _brute_force(scores, 12, chunks, np.zeros((chunks, B)))
    key = jax.random.key(3)
    noise = np.stack([jax.random.gumbel(one, (B,), jnp.float32) for one in jax.random.split(key, chunks)])
    drawn = jointly(LEARNER, REFERENCE, count=12, chunks=chunks, key=key)
    assert drawn.tolist() == _brute_force(scores, 12, chunks, noise)
    assert len(set(drawn.tolist())) == 12


def test_one_chunk_is_independent_choice():
    own = learnability(jnp.asarray(np.diag(_losses(LEARNER))), jnp.asarray(np.diag(_losses(REFERENCE))))
    expected = most_learnable(own.astype(jnp.float32), 6)
    assert jointly(LEARNER, REFERENCE, count=6, chunks=1).tolist() == expected.tolist()
    assert expected.tolist() == np.argsort(-np.asarray(own))[:6].tolist()


def test_groups_count_for_nothing():
    group = np.arange(B) // 3
    scores = _losses(LEARNER) - _losses(REFERENCE)
    scores[(group[:, None] == group[None, :]) & ~np.eye(B, dtype=bool)] = 0
    found = jointly(LEARNER, REFERENCE, count=12, chunks=4, group=jnp.asarray(group, jnp.int32))
    assert found.tolist() == _brute_force(scores, 12, 4, np.zeros((4, B)))


def test_a_row_with_nan_is_never_chosen():
    bad = LEARNER._replace(queries=LEARNER.queries.at[5].set(jnp.nan))
    found = jointly(bad, REFERENCE, count=B - 2, chunks=2)
    assert 5 not in found.tolist()
    assert len(set(found.tolist())) == B - 2


def test_scores_that_are_no_numbers_come_last():
    scores = jnp.array([0.0, jnp.nan, 2.0, jnp.inf, 1.0, -jnp.inf])
    assert most_learnable(scores, 3).tolist() == [2, 4, 0]
    assert sorted(most_learnable(scores, 3, jax.random.key(0)).tolist()) == [0, 2, 4]
    assert len(set(most_learnable(scores, 6).tolist())) == 6


def test_pairs_of_one_group_are_chosen_by_their_own_scores():
    own = np.diag(_losses(LEARNER)) - np.diag(_losses(REFERENCE))
    found = jointly(LEARNER, REFERENCE, count=12, chunks=4, group=jnp.zeros(B, jnp.int32))
    assert found.tolist() == np.argsort(-own, kind="stable")[:12].tolist()


@pytest.mark.parametrize("group", [np.full(B, -1), -1 - np.arange(B), np.arange(B)])
def test_pairs_without_a_group_are_groups_of_their_own(group):
    found = jointly(LEARNER, REFERENCE, count=12, chunks=4, group=group)
    assert found.tolist() == jointly(LEARNER, REFERENCE, count=12, chunks=4).tolist()


def test_draws_follow_the_scores():
    draw = jax.jit(jax.vmap(lambda key: most_learnable(jnp.array([0.0, 3.0]), 1, key)[0]))
    assert 0.8 < np.mean(draw(jax.random.split(jax.random.key(0), 50))) < 1.0


def test_bad_input():
    with pytest.raises(ConfigError, match=r"reference: queries have shape \(24, 7\) and items \(24, 6\)"):
        select_jointly(LEARNER, REFERENCE._replace(items=REFERENCE.items[:, :6]), count=12)
    with pytest.raises(ConfigError, match="learner has 24 pairs and reference 20"):
        select_jointly(LEARNER, _model(1, 7, 2.0, -2.0, 20), count=12)
    with pytest.raises(ConfigError, match="count=10 of 24 pairs in 4 chunks"):
        select_jointly(LEARNER, REFERENCE, count=10, chunks=4)
    for scale in (float("inf"), float("nan"), np.array(np.nan), jnp.float32(np.nan)):
        with pytest.raises(ConfigError, match=f"learner: log_scale is {scale}"):
            select_jointly(LEARNER._replace(log_scale=scale), REFERENCE, count=16)
    with pytest.raises(ConfigError, match="reference: bias is nan"):
        select_jointly(LEARNER, REFERENCE._replace(bias=float("nan")), count=16)
    with pytest.raises(ConfigError, match="do not fit into int32"):
        select_jointly(LEARNER, REFERENCE, count=16, group=np.arange(B) + 2**32)
    with pytest.raises(ConfigError, match="learner losses have shape"):
        learnability(jnp.ones(3), jnp.ones(4))
    with pytest.raises(ConfigError, match="got 4 of scores"):
        most_learnable(jnp.ones(3), 4)
    with pytest.raises(ConfigError, match="group is"):
        select_jointly(LEARNER, REFERENCE, count=16, group=jnp.zeros(3, jnp.int32))
