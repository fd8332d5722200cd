"""A regression small enough to train in milliseconds, with frozen and trainable parameters and key-dependent noise."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.module import ParamSpec
from erel_jax.training import adam, new_state, train_step

SPEC = {
    "body": {"kernel": ParamSpec((6, 8), ("embed", "mlp")), "bias": ParamSpec((8,), ("mlp",), module.zeros)},
    "head": {"kernel": ParamSpec((8, 1), ("mlp", None)), "bias": ParamSpec((1,), (None,), module.zeros)},
}


def loss_fn(params: Any, batch: Any, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    noise = 0.01 * jax.random.normal(key, batch["x"].shape)
    hidden = jnp.tanh((batch["x"] + noise) @ params["body"]["kernel"] + params["body"]["bias"][None, :])
    out = (hidden @ params["head"]["kernel"] + params["head"]["bias"][None, :])[:, 0]
    return jnp.mean(jnp.square(out - batch["y"])), {"spread": jnp.std(out)}


class Stream:
    """Batch k is a function of k alone; steps listed in `bad` hold a NaN."""

    def __init__(self, bad: tuple[int, ...] = (), length: int | None = None) -> None:
        self.next = 0
        self.bad = bad
        self.length = length

    def __next__(self) -> tuple[dict[str, np.ndarray], list[str]]:
        if self.next == self.length:
            raise StopIteration
        random = np.random.default_rng(self.next)
        x = random.normal(size=(16, 6)).astype(np.float32)
        y = np.tanh(x[:, 0] - 2.0 * x[:, 1])
        if self.next in self.bad:
            x[3, 2] = np.nan
        ids = [f"row {self.next}.{i}" for i in range(16)]
        self.next += 1
        return {"x": x, "y": y}, ids

    def state(self) -> dict[str, int]:
        return {"next": self.next}

    def restore(self, state: dict[str, int]) -> None:
        self.next = state["next"]


def build(patterns: list[str] | None = None, seed: int = 0) -> SimpleNamespace:
    params = module.init(jax.random.key(seed), SPEC)
    trainable, frozen = tree.partition(params, patterns or [".*"])
    optimizer = adam(0.01)
    return SimpleNamespace(
        params=params,
        trainable=trainable,
        frozen=frozen,
        optimizer=optimizer,
        loss_fn=loss_fn,
        new_state=lambda: new_state(trainable, optimizer, jax.random.key(7)),
        step=train_step(loss_fn, optimizer),
        stream=Stream,
    )


@pytest.fixture(scope="module")
def task() -> SimpleNamespace:
    """Everything trains."""
    return build()


@pytest.fixture(scope="module")
def head_task() -> SimpleNamespace:
    """Only the head trains."""
    return build(["head/.*"])
