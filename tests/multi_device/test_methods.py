"""Every adaptation method computes the same on 1 and on 8 devices: one training step, and encoding.

Both tasks share one program per method, `nce(two towers) + debiased(items, users)`, because compiling is what these
tests cost. Methods that only adapt the towers have the same code behind them, so there `full` and `lora` stand for all
in the second task. The step on one device also shows that gradients are finite and reach every trained parameter.
"""

import contextlib
import dataclasses
import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.adapters import METHODS
from erel_jax.adapters.adapted import dual_encoder, item_encoder
from erel_jax.benchmark.next_item import next_item
from erel_jax.data.sequence_batches import SequenceBatches
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.layers import FLOAT32
from erel_jax.losses import symmetric_info_nce
from erel_jax.recommendation import SasrecConfig
from erel_jax.sharding import RULES, batch_sharding, make_mesh, shardings
from erel_jax.training import adam, new_state, place, place_batch, train_step

QUICK = {"xla_backend_optimization_level": 0}
MESHES = {"replicated": (8, 1), "fsdp": (8, 1), "tensor": (2, 4)}
SHARDED = ("full", "lora", "iisan")
# One method in every run: all of them compile for minutes together.
QUICK_METHODS = ("iisan_cached",)
WIDTH, LENGTH, USERS, ITEMS = 8, 3, 8, 20
ENCODERS = {
    "text": bert(dataclasses.replace(BertConfig.tiny(), layers=1)),
    "image": vit(dataclasses.replace(VitConfig.tiny(), layers=1)),
}
# SGD-like epsilon: Adam's 1e-8 turns rounding in near-zero gradients into whole steps.
OPTIMIZER = adam(0.01, eps=1e-3)
# The softmax cancels a key's bias, so its gradient is rounding alone.
SILENT = ("key/bias",)


def encoders_of(name):
    """Two layers where one is cut off."""
    if name != "partial_layers":
        return ENCODERS
    return {
        "text": bert(dataclasses.replace(BertConfig.tiny(), layers=2)),
        "image": vit(dataclasses.replace(VitConfig.tiny(), layers=2)),
    }


def drawn(spec, seed=1):
    draw = np.random.default_rng(seed)

    def one(path, leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):  # a quantized base
            low, high = (0, 256) if leaf.dtype == jnp.uint8 else (-5, 6)
            return jnp.asarray(draw.integers(low, high, leaf.shape).astype(leaf.dtype))
        unit = path.endswith("scale") and not path.endswith(("kernel/scale", "base/scale"))
        return jnp.asarray((unit + 0.2 * draw.normal(size=leaf.shape)).astype(np.float32))

    return tree.map_with_path(one, spec)


def inputs_of(method, rows, seed):
    draw = np.random.default_rng(seed)
    if method.cached:
        shape = (rows, 2, 16) if method.reads == "taps" else (rows, 16)
        return {name: draw.normal(size=shape).astype(np.float32) for name in ENCODERS}
    ids = draw.integers(1, 64, (rows, 5)).astype(np.int32)
    pixels = draw.normal(size=(rows, 12, 12, 3)).astype(np.float32)
    return {"text": {"ids": ids, "mask": np.ones((rows, 5), bool)}, "image": {"pixels": pixels}}


def has_items(name):
    """Whether the step has the second task: where the method fuses modalities, or stands for others."""
    method = METHODS[name]
    return name in SHARDED or method.cached or method.head != "linear"


def batch_of(method):
    """Rows of the batch divide over 8 devices; one pair shares its text, items lack modalities, slots are padding."""
    draw = np.random.default_rng(5)
    windows = draw.integers(1, ITEMS + 1, (USERS, LENGTH + 1)).astype(np.int32)
    windows[::3, 0] = 0
    sequence = SequenceBatches(windows=windows, batch_size=USERS, epochs=1, multiple=8)[0]
    items = len(sequence.unique_items)
    return {
        "pairs": inputs_of(method, 8, 6),
        "text_id": np.array([0, 1, 2, 3, 0, 5, 6, 7], np.int32),
        "sequence": sequence,
        "inputs": inputs_of(method, items, 7),
        "presence": draw.random((items, 2)) > 0.2,
        "log_popularity": np.log(draw.random(items) + 0.1).astype(np.float32),
    }


@functools.cache
def built(name):
    """Model, loss, parameters and batch of a method."""
    method = METHODS[name]
    encoders = encoders_of(name)
    dual, item = dual_encoder(encoders, method), item_encoder(encoders, method, embedding=WIDTH)
    model = next_item(None, item, SasrecConfig(width=WIDTH, max_length=LENGTH, blocks=1), FLOAT32)  # type: ignore
    spec, patterns = {"dual": dual.module.spec}, [f"dual/(?:{p})" for p in dual.trainable]
    if has_items(name):
        spec["item"] = {**item.module.spec, "user": model.user.spec}
        patterns += [f"item/(?:{p})" for p in (*item.trainable, "user/.*")]

    def loss_fn(params, batch, key):
        vectors = dual.module.apply(params["dual"], batch["pairs"], key=key, train=True)
        scale = params["dual"]["head"]["logit_scale"]
        pairs = symmetric_info_nce(vectors["text"], vectors["image"], scale, group=batch["text_id"])
        if "item" not in params:
            return pairs, {"pairs": pairs}
        users, _ = model.loss(params["item"], batch, key)
        return pairs + users, {"pairs": pairs, "users": users}

    params, batch = drawn(spec), batch_of(method)
    trainable, frozen = tree.partition(params, patterns)
    return SimpleNamespace(
        spec=spec, loss_fn=loss_fn, params=params, trainable=trainable, frozen=frozen, batch=batch, dual=dual, item=item
    )


@functools.cache
def single(name):
    """What one step of a method gives on one device."""
    return one_step(built(name), None)


def one_step(made, rules):
    state = new_state(made.trainable, OPTIMIZER, jax.random.key(1))
    frozen, batch, context = made.frozen, made.batch, contextlib.nullcontext()
    step = train_step(made.loss_fn, OPTIMIZER)
    if rules is not None:
        mesh = make_mesh(*MESHES[rules])
        state, frozen = place(state, frozen, mesh, rules, made.spec)
        batch, context = place_batch(batch, state.step.sharding), jax.set_mesh(mesh)
        step = train_step(made.loss_fn, OPTIMIZER, mesh=mesh, rules=rules, spec=made.spec)
    with context:
        state, metrics = jax.jit(step.fn, compiler_options=QUICK)(state, frozen, batch)
    shown = [key for key in ("pairs", "users", "gradient_norm", "finite") if key in metrics]
    return jax.device_get((state.trainable, {key: metrics[key] for key in shown}))


def case(name, rules=None):
    marks = () if name in QUICK_METHODS and rules in (None, "replicated") else (pytest.mark.slow,)
    return pytest.param(*((name,) if rules is None else (name, rules)), marks=marks)


@pytest.mark.parametrize("name", [case(name) for name in METHODS])
def test_a_step_on_one_device_is_finite_and_moves_what_trains(name):
    made = built(name)
    trainable, metrics = single(name)
    assert metrics["finite"] and metrics["pairs"] > 0 and metrics.get("users", 1) > 0
    before = tree.paths(made.trainable)
    for path, value in tree.paths(trainable).items():
        assert np.isfinite(value).all(), path
        assert path.endswith(SILENT) or np.abs(value - before[path]).max() > 1e-6, path


@pytest.mark.parametrize(
    ("name", "rules"),
    [case(name, "replicated") for name in METHODS]
    + [case(name, rules) for name in SHARDED for rules in ("fsdp", "tensor")],
)
def test_a_step_is_that_of_one_device(name, rules):
    made = built(name)
    trainable, metrics = one_step(made, rules)
    expected, shown = single(name)
    for key, value in shown.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-5, atol=1e-5, err_msg=key)
    for path, value in tree.paths(expected).items():
        np.testing.assert_allclose(tree.paths(trainable)[path], value, rtol=0, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("name", "rules"), [("lora", "tensor"), ("iisan_cached", "fsdp"), ("iisan_cached", "replicated")]
)
def test_encoding_is_that_of_one_device(name, rules):
    made = built(name)
    mesh = make_mesh(*MESHES[rules])

    def encode(params, pairs, items, presence):
        return made.dual.module.apply(params["dual"], pairs), made.item.module.apply(params["item"], items, presence)

    arguments = made.batch["pairs"], made.batch["inputs"], made.batch["presence"]
    expected = jax.jit(encode, compiler_options=QUICK)(made.params, *arguments)
    placed = jax.device_put(made.params, shardings(made.spec, mesh, RULES[rules]))
    split = jax.tree.map(lambda x: jax.device_put(x, batch_sharding(mesh, x.ndim)), arguments)
    with jax.set_mesh(mesh):
        got = jax.jit(encode, compiler_options=QUICK)(placed, *split)
    for path, value in tree.paths(expected).items():
        np.testing.assert_allclose(tree.paths(got)[path], value, rtol=1e-5, atol=1e-5, err_msg=path)
