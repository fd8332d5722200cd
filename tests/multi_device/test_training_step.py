"""The same training on 1 and on 8 devices, and checkpoints that move between them."""

import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from erel_jax import module, tree
from erel_jax.layers import FLOAT32, BlockConfig, block, dense, embed_tokens, masked_mean, run_stack, stack_spec
from erel_jax.module import ParamSpec
from erel_jax.sharding import make_mesh
from erel_jax.training import Checkpoints, adam, fit, new_state, place, place_batch, state_shardings, train_step

CONFIG = BlockConfig(width=16, heads=4, mlp_width=32)
LAYERS, VOCABULARY, BATCH, TOKENS = 2, 32, 16, 8

SPEC = {
    "table": ParamSpec((VOCABULARY, 16), ("vocab", "embed")),
    "layers": stack_spec(CONFIG, LAYERS),
    "head": {"kernel": ParamSpec((16, 6), ("embed", None)), "bias": ParamSpec((6,), (None,), module.zeros)},
}
MESHES = {"replicated": (8, 1), "fsdp": (8, 1), "tensor": (2, 4), "fsdp_tensor": (4, 2)}


def loss_fn(params, batch, key):
    mask = batch["mask"]
    visible = mask[:, None, None, :]
    x = embed_tokens(params["table"], batch["ids"])
    x, _ = run_stack(lambda p, y: block(CONFIG, FLOAT32, p, y, visible), params["layers"], x, layers=LAYERS)
    pooled = masked_mean(x, mask) + 0.01 * jax.random.normal(key, (BATCH, 16))
    log_probs = jax.nn.log_softmax(dense(pooled, params["head"]["kernel"], params["head"]["bias"]))
    return -jnp.mean(jnp.take_along_axis(log_probs, batch["label"][:, None], axis=1)), {}


class Stream:
    next = 0

    def __next__(self):
        random = np.random.default_rng(self.next)
        self.next += 1
        ids = random.integers(0, VOCABULARY, (BATCH, TOKENS), dtype=np.int32)
        lengths = random.integers(2, TOKENS + 1, (BATCH, 1))
        mask = np.arange(TOKENS)[None, :] < lengths
        return {"ids": ids, "mask": mask, "label": ids[:, 0] % 6}, list(range(BATCH))

    def state(self):
        return {"next": self.next}

    def restore(self, state):
        self.next = state["next"]


# SGD-like epsilon: Adam's 1e-8 turns rounding in near-zero gradients into whole steps.
OPTIMIZER = adam(0.01, eps=1e-3, clip_norm=1.0)


@functools.cache
def params():
    return jax.jit(lambda: module.init(jax.random.key(0), SPEC))()


@functools.cache
def mesh_of(rules):
    return make_mesh(*MESHES[rules])


@functools.cache
def step_of(rules):
    """One program per table of rules for the whole file; compiling is what these tests cost."""
    if rules is None:
        return train_step(loss_fn, OPTIMIZER)
    return train_step(loss_fn, OPTIMIZER, mesh=mesh_of(rules), rules=rules, spec=SPEC)


def start(rules=None, patterns=(".*",)):
    trainable, frozen = tree.partition(params(), list(patterns))
    state = new_state(trainable, OPTIMIZER, jax.random.key(1))
    if rules is not None:
        state, frozen = place(state, frozen, mesh_of(rules), rules, SPEC)
    return SimpleNamespace(state=state, frozen=frozen, step=step_of(rules))


def restore(checkpoints, *wanted):
    found = checkpoints.restore(*wanted)
    assert found is not None
    return found


def run(begun, steps=6, stream=None, **options):
    return fit(begun.step, begun.state, begun.frozen, stream or Stream(), steps=steps, **options)


@pytest.fixture(scope="module")
def single():
    return run(start())


@pytest.mark.parametrize("rules", ["replicated", "fsdp", "tensor"])
def test_losses_and_parameters_equal_those_of_one_device(single, rules):
    begun = start(rules)
    wanted = jax.tree.map(lambda x: x.sharding, begun.state)
    result = run(begun)
    np.testing.assert_allclose(result.losses, single.losses, atol=1e-5, rtol=0)
    for name, value in tree.paths(result.state.trainable).items():
        expected = tree.paths(single.state.trainable)[name]
        np.testing.assert_allclose(jax.device_get(value), jax.device_get(expected), atol=1e-5, err_msg=name)
    assert result.recompiles_after_warmup == 0
    moved = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), result.state, wanted)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("rules", ["fsdp", "tensor"])
def test_moments_live_where_their_parameters_live(rules):
    state = start(rules).state
    split = {p for p, x in tree.paths(state.trainable).items() if x.addressable_shards[0].data.size < x.size}
    assert "layers/mlp/up/kernel" in split
    for moments in (state.optimizer_state[1].mu, state.optimizer_state[1].nu):
        for name, moment in tree.paths(moments).items():
            assert moment.sharding == tree.paths(state.trainable)[name].sharding
            assert (moment.addressable_shards[0].data.size < moment.size) == (name in split)
    assert state.optimizer_state[1].count.sharding.is_fully_replicated


def test_frozen_parameters_are_placed_and_untouched(single):
    begun = start("fsdp_tensor", ["head/.*"])
    assert isinstance(begun.frozen["table"].sharding, NamedSharding)
    assert not begun.frozen["table"].sharding.is_fully_replicated
    one = run(start(patterns=["head/.*"]))
    np.testing.assert_allclose(run(begun).losses, one.losses, atol=1e-5, rtol=0)
    assert one.losses[-1] != single.losses[-1]


def test_factored_statistics_are_replicated():
    import optax

    state = jax.eval_shape(
        lambda p: new_state(p, optax.adafactor(0.1, min_dim_size_to_factor=8), jax.random.key(0)),
        module.abstract(SPEC),
    )
    places = state_shardings(state, make_mesh(8, 1), "fsdp", SPEC)
    table = tree.paths(places.optimizer_state)
    rows = [name for name in table if "v_row" in name and name.endswith("table")]
    assert rows and all(table[name].is_fully_replicated for name in rows)


def test_nan_on_one_device_skips_the_step_on_all():
    begun = start("fsdp")
    before = jax.device_get(begun.state.trainable)
    trainable = begun.state.trainable
    table = trainable["table"].at[3].set(jnp.nan)
    poisoned = dataclasses.replace(begun.state, trainable={**trainable, "table": table})
    state, metrics = begun.step(
        jax.device_put(poisoned, jax.tree.map(lambda x: x.sharding, begun.state)),
        begun.frozen,
        jax.device_put(next(Stream())[0]),
    )
    assert not bool(metrics["finite"]) and int(state.skipped) == 1
    np.testing.assert_array_equal(jax.device_get(state.trainable["head"]["kernel"]), before["head"]["kernel"])


@pytest.mark.parametrize(("writer", "reader"), [(None, "fsdp"), ("tensor", None), ("tensor", "fsdp")])
def test_checkpoints_move_between_device_counts(single, tmp_path, writer, reader):
    run(start(writer), 3, checkpoint=Checkpoints(tmp_path, {}))
    checkpoints, stream, begun = Checkpoints(tmp_path, {}), Stream(), start(reader)
    found = restore(checkpoints, begun.state)
    stream.restore(found.stream_state)
    for name, value in tree.paths(found.state.trainable).items():
        assert value.sharding == tree.paths(begun.state.trainable)[name].sharding
    begun.state = found.state
    np.testing.assert_allclose(run(begun, stream=stream).losses, single.losses[3:], atol=1e-5, rtol=0)


def test_no_hidden_transfer_on_a_mesh():
    begun = start("fsdp")
    with jax.transfer_guard("disallow"):
        assert run(begun, 3).steps_done == 3


def test_results_stay_where_the_rules_say():
    """A parameter used row by row would follow the batch's sharding if the step left the placement to the compiler."""
    mesh, optimizer = make_mesh(8, 1), adam(0.1)
    state, _ = place(new_state({"w": jnp.ones((16, 4))}, optimizer, jax.random.key(0)), None, mesh)
    step = train_step(lambda p, b, k: (jnp.mean(jnp.square(p["w"] * b["x"])), {}), optimizer, mesh=mesh)
    batch = place_batch({"x": np.ones((16, 4), np.float32)}, state.step.sharding)
    assert not batch["x"].sharding.is_fully_replicated
    for _ in range(2):
        state, _ = step(state, None, batch)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state))
