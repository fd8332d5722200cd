"""Batches larger than memory: encode a few examples at a time, compare all of them.

A contrastive loss wants a large batch, because every other example is a negative; the encoder's activations, not the
loss, are what fills memory. `in_sub_batches` encodes sub-batch after sub-batch and keeps the embeddings alone. In the
backward pass the gradient by the embeddings is known, so each sub-batch is encoded again, with the same random numbers,
and its part of the parameters' gradient is added up. Value and gradient are those of the whole batch, for a second
forward pass.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError

PyTree = Any
Encode = Callable[[PyTree, PyTree, jax.Array | None], PyTree]


def in_sub_batches(encode: Encode, rows: int) -> Encode:
    """The same encoding with the activations of `rows` examples at a time, forward and backward.

    Use it inside the loss function of `training.train_step`, under any loss of `erel_jax.losses`:

        encode = in_sub_batches(lambda params, inputs, key: tower.apply(params, inputs, key=key, train=True), 32)

        def loss_fn(params, batch, key):
            vectors = encode(params, batch["inputs"], key)
            return chunked_info_nce(vectors["text"], vectors["image"], params["scale"]), {}

    Args:
        encode: `encode(params, inputs, key)` with a leading batch axis on every leaf in and out; `key` may be None.
            Examples must not influence each other, as they would in a batch norm.
        rows: examples at a time; must divide the batch. With a batch split over devices, see Sharding.

    Returns:
        A function of the same arguments. Sub-batch i draws its random numbers from `fold_in(key, i)`, the same in both
        passes; dropout therefore differs from that of the unsplit encoding, and without dropout the results are equal.

    Raises:
        ConfigError: when traced, if `rows` does not divide the batch or is below 1.

    Cost: one more forward pass; memory of one sub-batch, of all inputs and of all embeddings.

    Sharding: inside `shard_map`, `rows` divides the device's part of the batch. Under plain `jit` over a sharded batch
    each sub-batch would live on few devices; use `shard_map` there.

    Reference: GradCache (Gao et al. 2021), here as a rematerialized scan.
    """
    if rows < 1:
        raise ConfigError(f"got sub-batches of {rows} examples, expected at least 1.")

    def run(params: PyTree, inputs: PyTree, key: jax.Array | None = None) -> PyTree:
        batch = jax.tree.leaves(inputs)[0].shape[0]
        if batch % rows:
            raise ConfigError(f"got {batch} examples in sub-batches of {rows}; choose a divisor of the batch size.")
        parts = jax.tree.map(lambda x: x.reshape(batch // rows, rows, *x.shape[1:]), inputs)

        def one(params: PyTree, part: PyTree, number: jax.Array) -> PyTree:
            return encode(params, part, None if key is None else jax.random.fold_in(key, number))

        remembered = jax.checkpoint(one, policy=jax.checkpoint_policies.nothing_saveable, prevent_cse=False)

        def step(_: None, given: tuple[PyTree, jax.Array]) -> tuple[None, PyTree]:
            return None, remembered(params, *given)

        _, outputs = jax.lax.scan(step, None, (parts, jnp.arange(batch // rows, dtype=jnp.int32)))
        return jax.tree.map(lambda x: x.reshape(batch, *x.shape[2:]), outputs)

    return run
