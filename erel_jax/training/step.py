"""One training step, compiled through the one door.

`train_step` turns a loss into a `sharding.Step` `(state, frozen, batch) -> (state, metrics)`. Gradients exist for the
trainable half of the parameters alone. A batch whose loss or gradient is not finite changes neither parameters nor
optimizer state; it is counted, and `training.fit` gives up after too many in a row.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from erel_jax import sharding, tree
from erel_jax.errors import ConfigError
from erel_jax.sharding import Step
from erel_jax.sharding.rules import Rules
from erel_jax.training.optimizer import relaxed
from erel_jax.training.state import TrainState, state_shardings

Loss = Callable[[Any, Any, jax.Array], tuple[jax.Array, dict[str, Any]]]

RESERVED = ("loss", "gradient_norm", "finite", "skipped", "consecutive_skips")


def train_step(
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    *,
    mesh: Mesh | None = None,
    rules: Rules | str | None = None,
    spec: Any = None,
    donate: bool = True,
) -> Step:
    """Makes the training step of any adaptation method.

    Args:
        loss_fn: `loss_fn(params, batch, key) -> (loss float32[], aux)`; `params` is trainable and frozen merged, `aux`
            a dict of arrays that join the metrics.
        optimizer: see `training.adam`.
        mesh: the mesh the state was placed on (`training.place`); None for one device.
        rules: the sharding rules it was placed with, "replicated" by default.
        spec: the spec it was placed with.
        donate: reuse the old state's memory for the new one. The state given to the step is then gone.

    Returns:
        A step `(state, frozen, batch) -> (state, metrics)`. `metrics` holds `loss` float32[], `gradient_norm`
        float32[] (before clipping), `finite` bool[] (the update was applied), `skipped` and `consecutive_skips`
        int32[], and `aux`. Build it once: each call makes a new program.

    Raises:
        ConfigError: rules without a mesh; when traced, a loss that is no float32 scalar, or an aux name that is taken.

    Numerics:
        The norm is summed in float32, so gradients above about 1e19 count as not finite. The optimizer's counters do
        not advance on skipped steps; `state.step` and with it the key do.

    Sharding:
        Results keep the placement of `state_shardings`, whatever the compiler would prefer, so that the next call
        finds its arguments where this one left them.
    """
    if mesh is None and (rules is not None or spec is not None):
        raise ConfigError("got sharding rules or a spec without a mesh; pass mesh=sharding.make_mesh(...) too.")

    def run(state: TrainState, frozen: Any, batch: Any) -> tuple[TrainState, dict[str, Any]]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(trainable: Any) -> tuple[jax.Array, dict[str, Any]]:
            return loss_fn(trainable if frozen is None else tree.merge(trainable, frozen), batch, key)

        (loss, aux), gradients = jax.value_and_grad(_checked(loss_of), has_aux=True)(state.trainable)
        norm = global_norm(gradients)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        new = _apply(optimizer, state, gradients, finite)
        if mesh is not None:
            places = state_shardings(new, mesh, "replicated" if rules is None else rules, spec)
            new = jax.lax.with_sharding_constraint(new, places)
        counts = {"skipped": new.skipped, "consecutive_skips": new.consecutive_skips}
        return new, {**aux, "loss": loss, "gradient_norm": norm, "finite": finite, **counts}

    return sharding.compile_step(run, mesh=mesh, donate=(0,) if donate else ())


def global_norm(gradients: Any) -> jax.Array:
    """Euclidean norm of all leaves together, float32[]; None holes count nothing."""
    squares = [jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(gradients)]
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))


def _apply(optimizer: optax.GradientTransformation, state: TrainState, gradients: Any, finite: jax.Array) -> TrainState:
    """The next state: updated where `finite`, otherwise the old parameters and optimizer state.

    A branch, and not a selection leaf by leaf: selecting reads every old value after the new one is made, so donated
    buffers would be copied first (629 copies instead of 291 in a step of 170 leaves, a fifth of its time on the CPU).
    """
    old = (state.trainable, state.optimizer_state)

    def updated() -> tuple[Any, Any]:
        updates, optimizer_state = relaxed(optimizer).update(gradients, state.optimizer_state, state.trainable)
        return optax.apply_updates(state.trainable, updates), optimizer_state

    trainable, optimizer_state = jax.lax.cond(finite, updated, lambda: old)
    return TrainState(
        step=state.step + 1,
        trainable=trainable,
        optimizer_state=optimizer_state,
        skipped=state.skipped + (~finite).astype(jnp.int32),
        consecutive_skips=jnp.where(finite, 0, state.consecutive_skips + 1),
        key=state.key,
    )


def _checked(loss_of: Callable[[Any], Any]) -> Callable[[Any], tuple[jax.Array, dict[str, Any]]]:
    def checked(trainable: Any) -> tuple[jax.Array, dict[str, Any]]:
        result = loss_of(trainable)
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise ConfigError("the loss function must return (loss, aux) with aux a dict; return (loss, {}) for none.")
        loss, aux = result
        if jnp.shape(loss) != () or jnp.result_type(loss) != jnp.float32:
            raise ConfigError(
                f"the loss is {jnp.result_type(loss)}{list(jnp.shape(loss))}, expected a float32 scalar; "
                "take the mean and compute it in float32."
            )
        taken = sorted(set(aux) & set(RESERVED))
        if taken:
            raise ConfigError(f"aux names {taken} are taken by the step itself; rename them.")
        return loss, aux

    return checked
