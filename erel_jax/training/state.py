"""What a training run carries from step to step, and where it lives on a mesh."""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, Sharding

from erel_jax import sharding, tree
from erel_jax.errors import ConfigError
from erel_jax.sharding.rules import Rules


@flax.struct.dataclass
class TrainState:
    """The whole state of a run: restored bit for bit, a run goes on as if it had never stopped.

    Attributes:
        step: int32[], batches consumed, skipped ones included.
        trainable: the parameters that train, None where a parameter is frozen (`tree.partition`).
        optimizer_state: optax state of `trainable`.
        skipped: int32[], steps whose loss or gradient was not finite.
        consecutive_skips: int32[], such steps in a row up to now.
        key: typed key of the run; step k draws from `fold_in(key, k)`.
    """

    step: jax.Array
    trainable: Any
    optimizer_state: Any
    skipped: jax.Array
    consecutive_skips: jax.Array
    key: jax.Array


def new_state(trainable: Any, optimizer: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """The state before the first step.

    Args:
        trainable: float parameters, None where frozen. They are copied, so the training step may reuse the state's
            memory while the caller keeps the originals.
        optimizer: see `training.adam`.
        key: typed key from `jax.random.key`.

    Returns:
        A `TrainState` at step 0.

    Raises:
        ConfigError: nothing is trainable, or a trainable parameter is not floating-point.
    """
    leaves = tree.paths(trainable)
    if not leaves:
        raise ConfigError("got no trainable parameter; choose patterns that match some, or do not train.")
    wrong = [f"{name} {leaf.dtype}" for name, leaf in leaves.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if wrong:
        raise ConfigError(f"only floating-point parameters can train, got {', '.join(wrong[:10])}. Freeze them.")
    trainable = jax.tree.map(jnp.copy, trainable)
    # Three separate zeros: donating one buffer under two names is an error.
    step, skipped, consecutive = (jnp.zeros((), jnp.int32) for _ in range(3))
    return TrainState(step, trainable, optimizer.init(trainable), skipped, consecutive, jnp.copy(key))


def abstract_state(trainable: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """`new_state` without memory, to lower a step of a full-size model or to count bytes.

    Args:
        trainable: abstract or concrete parameters, None where frozen.
        optimizer: see `training.adam`.

    Returns:
        A `TrainState` of `jax.ShapeDtypeStruct`.
    """
    return jax.eval_shape(lambda params: new_state(params, optimizer, jax.random.key(0)), trainable)


def tree_shardings(params: Any, mesh: Mesh, rules: Rules | str, spec: Any = None) -> Any:
    """A sharding for every leaf of a parameter tree that may have holes.

    Args:
        params: arrays (abstract ones too), None where `tree.partition` left a hole.
        mesh: a mesh of `sharding.make_mesh`.
        rules: a table or its name in `sharding.RULES`.
        spec: spec with the logical axes of every path in `params`; None replicates everything.

    Returns:
        The same tree of `NamedSharding`.

    Raises:
        ConfigError: the spec lacks a parameter, or the rules split parameters and there is no spec.
    """
    rules = sharding.named_rules(rules) if isinstance(rules, str) else rules
    if spec is None:
        if any(axis is not None for name, axis in rules.items() if name != "batch"):
            raise ConfigError("these sharding rules split parameters; pass the spec that names their logical axes.")
        return jax.tree.map(lambda _: sharding.replicated_sharding(mesh), params)
    table = tree.paths(sharding.shardings(spec, mesh, rules))
    unknown = [name for name in tree.paths(params) if name not in table]
    if unknown:
        raise ConfigError(
            f"the spec has no parameter {', '.join(unknown[:5])}; pass the spec the parameters came from."
        )
    return tree.map_with_path(lambda path, _: table[path], params)


def state_shardings(state: TrainState, mesh: Mesh, rules: Rules | str, spec: Any = None) -> TrainState:
    """A sharding for every leaf of a training state.

    An optimizer's leaf that belongs to a parameter (its path ends in the parameter's path and the shape is the same:
    Adam's moments) lives where the parameter lives; counters and factored statistics are replicated.

    Args:
        state: concrete or abstract.
        mesh: a mesh of `sharding.make_mesh`.
        rules: a table or its name in `sharding.RULES`.
        spec: see `tree_shardings`.

    Returns:
        A `TrainState` of `NamedSharding`.
    """
    whole = sharding.replicated_sharding(mesh)
    trainable = tree_shardings(state.trainable, mesh, rules, spec)
    places = tree.paths(trainable)
    shapes = {name: tuple(leaf.shape) for name, leaf in tree.paths(state.trainable).items()}

    def of_parameter(path: str, leaf: Any) -> NamedSharding:
        parts = path.split("/")
        for start in range(len(parts)):
            name = "/".join(parts[start:])
            if shapes.get(name) == tuple(leaf.shape):
                return places[name]
        return whole

    return dataclasses.replace(
        state,
        step=whole,
        trainable=trainable,
        optimizer_state=tree.map_with_path(of_parameter, state.optimizer_state),
        skipped=whole,
        consecutive_skips=whole,
        key=whole,
    )


def place(
    state: TrainState, frozen: Any, mesh: Mesh, rules: Rules | str = "replicated", spec: Any = None
) -> tuple[TrainState, Any]:
    """Moves a state and the frozen parameters to their places on a mesh.

    Args:
        state: from `new_state`.
        frozen: the other half of `tree.partition`, or None.
        mesh: a mesh of `sharding.make_mesh`.
        rules: a table or its name in `sharding.RULES`.
        spec: spec of trainable and frozen parameters together; see `tree_shardings`.

    Returns:
        `(state, frozen)` for a step made by `train_step` with the same mesh, rules and spec.
    """
    placed = jax.device_put(state, state_shardings(state, mesh, rules, spec))
    return placed, jax.device_put(frozen, tree_shardings(frozen, mesh, rules, spec))


def place_batch(batch: Any, home: Sharding) -> Any:
    """Moves a host batch to where a state lives, with an explicit transfer.

    Args:
        batch: pytree of NumPy arrays or jax arrays.
        home: `state.step.sharding`. On a mesh, leading axes are split over `data` where it divides them (otherwise the
            array is replicated, as for parameters); without a mesh the arrays go to the state's device.

    Returns:
        The same tree of `jax.Array`.
    """
    if not isinstance(home, NamedSharding):
        return jax.device_put(batch, home)
    mesh = home.mesh
    assert isinstance(mesh, Mesh)
    parts = mesh.shape["data"]

    def target(leaf: Any) -> NamedSharding:
        shape = np.shape(leaf)
        splits = bool(shape) and shape[0] % parts == 0
        return sharding.batch_sharding(mesh, len(shape)) if splits else sharding.replicated_sharding(mesh)

    return jax.device_put(batch, jax.tree.map(target, batch))
