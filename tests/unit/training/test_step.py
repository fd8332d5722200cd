"""One step: who trains, what a bad batch does, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.errors import ConfigError
from erel_jax.training import adam, new_state, train_step
from erel_jax.training.step import global_norm


def batch_of(task, number=0, bad=()):
    stream = task.stream(bad=bad)
    stream.restore({"next": number})
    return next(stream)[0]


def host(state):
    return jax.device_get((state.trainable, state.optimizer_state))


def test_only_the_trainable_half_moves_and_gets_moments(head_task):
    state = head_task.new_state()
    new, metrics = head_task.step(state, head_task.frozen, batch_of(head_task))
    assert new.trainable["body"] == {"kernel": None, "bias": None}
    assert set(tree.paths(new.optimizer_state)) == {
        "0/count", "0/mu/head/kernel", "0/mu/head/bias", "0/nu/head/kernel", "0/nu/head/bias",
    }  # fmt: skip
    before = head_task.params["head"]["kernel"]
    assert float(jnp.max(jnp.abs(new.trainable["head"]["kernel"] - before))) == pytest.approx(0.01, rel=1e-3)
    assert int(new.step) == 1 and bool(metrics["finite"])
    assert metrics["loss"].dtype == jnp.float32 and "spread" in metrics


def test_gradient_norm_is_that_of_the_loss(head_task):
    state = head_task.new_state()
    key = jax.random.fold_in(jax.random.key(7), 0)
    batch = batch_of(head_task)
    gradients = jax.grad(lambda t: head_task.loss_fn(tree.merge(t, head_task.frozen), batch, key)[0])(state.trainable)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients)])
    _, metrics = head_task.step(state, head_task.frozen, batch)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(np.linalg.norm(flat)), rel=1e-5)


def test_each_step_has_its_own_key(task):
    state, same = task.new_state(), batch_of(task)
    optimizer = adam(1e-30)
    step = train_step(lambda p, b, k: (jax.random.uniform(k) + 0.0 * task.loss_fn(p, b, k)[0], {}), optimizer)
    drawn = []
    for _ in range(2):
        state, metrics = step(state, None, same)
        drawn.append(float(metrics["loss"]))
    expected = [float(jax.random.uniform(jax.random.fold_in(jax.random.key(7), k))) for k in range(2)]
    assert drawn == expected and drawn[0] != drawn[1]


def test_nan_batch_changes_nothing_but_the_counters(task):
    state, _ = task.step(task.new_state(), None, batch_of(task))
    before = host(state)
    state, metrics = task.step(state, None, batch_of(task, 1, bad=(1,)))
    after = host(state)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert not bool(metrics["finite"]) and np.isnan(metrics["loss"])
    assert (int(state.step), int(state.skipped), int(state.consecutive_skips)) == (2, 1, 1)
    state, metrics = task.step(state, None, batch_of(task, 2))
    assert (int(state.step), int(state.skipped), int(state.consecutive_skips)) == (3, 1, 0)
    assert bool(metrics["finite"])


def test_finite_loss_with_infinite_gradient_is_skipped():
    optimizer = adam(0.1)
    step = train_step(lambda p, b, k: (jnp.sum(jnp.sqrt(p["w"] * b["x"])), {}), optimizer)
    state = new_state({"w": jnp.ones(2)}, optimizer, jax.random.key(0))
    state, metrics = step(state, None, {"x": jnp.zeros(2)})
    assert np.isfinite(metrics["loss"]) and not bool(metrics["finite"])
    np.testing.assert_array_equal(state.trainable["w"], 1.0)


def test_caller_keeps_its_parameters_although_the_state_is_donated(task):
    state = task.new_state()
    task.step(state, None, batch_of(task))
    assert state.trainable["head"]["bias"].is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(task.trainable))


def test_one_program_for_many_steps(task):
    step = train_step(task.loss_fn, task.optimizer)
    state = task.new_state()
    for number in range(3):
        state, _ = step(state, None, batch_of(task, number))
    assert step.compilations == 1


def test_no_hidden_transfer(task):
    state = task.new_state()
    batches = [jax.device_put(batch_of(task, number)) for number in range(2)]
    state, _ = task.step(state, None, batches[0])
    with jax.transfer_guard("disallow"):
        state, metrics = task.step(state, None, batches[1])
        assert np.isfinite(jax.device_get(metrics["loss"]))


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda p, b, k: jnp.sum(p["w"]), "must return"),
        (lambda p, b, k: (p["w"], {}), r"float32\[2\], expected a float32 scalar"),
        (lambda p, b, k: (jnp.sum(p["w"]).astype(jnp.bfloat16), {}), "bfloat16"),
        (lambda p, b, k: (jnp.sum(p["w"]), {"loss": 1}), r"\['loss'\] are taken"),
    ],
)
def test_unfit_losses_are_refused(loss_fn, message):
    optimizer = adam(0.1)
    state = new_state({"w": jnp.ones(2)}, optimizer, jax.random.key(0))
    with pytest.raises(ConfigError, match=message):
        train_step(loss_fn, optimizer)(state, None, {})


def test_rules_without_a_mesh_are_refused(task):
    with pytest.raises(ConfigError, match="without a mesh"):
        train_step(task.loss_fn, task.optimizer, rules="fsdp")


def test_norm_sums_in_float32():
    assert float(global_norm({"a": jnp.full((4,), 300.0, jnp.float16), "b": None})) == 600.0
