"""Side towers: small trainable networks that read hidden states of a frozen encoder and nothing else.

A tower walks up the taps h_1 … h_K of an encoder. At tap k a *gate* mixes the tap with the tower's own state, and a
*side block* (a residual bottleneck) transforms the mixture:

    s_k = SANB_k(g_k h_k + (1 - g_k) s_{k-1}),   SANB(x) = x + W_up φ(W_down x + b_down) + b_up,   s_0 = 0

No gradient ever enters the encoder, so its states can be stored once and reused in every epoch. `side_tower` is the
tower over one encoder; `intra_states` and `inter_states` are the recurrences that `erel_jax.adapters.iisan` combines.

Reference: IISAN, arXiv 2404.02059 (intra-modal and inter-modal side adapted networks).
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.checks import check_counts, check_finite
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision, dense, matmul
from erel_jax.layers.activation import activation as activation_named
from erel_jax.module import Module, ParamSpec, normal, zeros

PyTree = Any
Affine = tuple[jax.Array, jax.Array]
Mixture = Callable[[jax.Array | None], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """What side towers compute.

    Attributes:
        bottleneck: inner width R of the side blocks.
        activation: name of φ.
        gated: False replaces the gated mixture by a plain sum, without gate parameters.
        gate_temperature: gates are sigmoid(parameter / temperature); 0.1 makes their learning rate tenfold.
        gate_init: initial gate parameter; 0 opens every gate halfway.
        first_gate_against_zero: True gates the first tap against the zero state, as released; False feeds the first
            block with the tap itself, as drawn in the paper.
        inter_additive: True adds each tap's mixture to the state of a tower over several encoders, as released, so
            that it grows with depth; False takes the mean of the two.
    """

    bottleneck: int = 64
    activation: str = "relu"
    gated: bool = True
    gate_temperature: float = 0.1
    gate_init: float = 0.0
    first_gate_against_zero: bool = True
    inter_additive: bool = True

    def __post_init__(self):
        check_counts(bottleneck=self.bottleneck)
        check_finite(gate_temperature=self.gate_temperature, gate_init=self.gate_init)
        if self.gate_temperature <= 0:
            raise ConfigError(f"got gate_temperature={self.gate_temperature}, expected a positive number.")
        activation_named(self.activation)


def tower_spec(taps: int, width: int, config: TowerConfig) -> dict[str, Any]:
    """Parameters of one tower: `gates` [K] and `blocks/0` … `blocks/K-1`.

    The blocks are separate leaves on purpose: slices of a stack inside a Python loop would each pad their gradient to
    the whole stack.
    """
    if taps < 1:
        raise ConfigError(f"got {taps} taps, expected at least 1.")
    check_counts(width=width)
    spec: dict[str, Any] = {"blocks": {str(k): block_spec(width, config.bottleneck) for k in range(taps)}}
    if config.gated:
        value = config.gate_init
        spec["gates"] = ParamSpec((taps,), (None,), lambda key, shape, dtype: jnp.full(shape, value, dtype))
    return spec


def block_spec(width: int, bottleneck: int) -> dict[str, Any]:
    """Parameters of one side block: `down` [D, R] and `up` [R, D], weights N(0, 0.01²), biases 0."""
    return {
        "down": {
            "kernel": ParamSpec((width, bottleneck), ("embed", "rank"), normal(0.01)),
            "bias": ParamSpec((bottleneck,), ("rank",), zeros),
        },
        "up": {
            "kernel": ParamSpec((bottleneck, width), ("rank", "embed"), normal(0.01)),
            "bias": ParamSpec((width,), ("embed",), zeros),
        },
    }


def side_block(params: PyTree, x: jax.Array, activation: str, precision: Precision) -> jax.Array:
    """`x + W_up φ(W_down x + b_down) + b_up` for float[N, D]."""
    inner = activation_named(activation)(dense(x, params["down"]["kernel"], params["down"]["bias"], precision))
    return x + dense(inner, params["up"]["kernel"], params["up"]["bias"], precision)


def side_block_output(params: PyTree, x: jax.Array, output: Affine, activation: str, precision: Precision) -> jax.Array:
    """`side_block(x) W + b` for `output` = (W [D, E], b [E]), without forming the block's own result.

    The block's up projection is composed with W first, [R, D] by [D, E], so that with more rows than E nothing of
    width D is computed after x.
    """
    kernel, bias = output
    inner = activation_named(activation)(dense(x, params["down"]["kernel"], params["down"]["bias"], precision))
    up = matmul(params["up"]["kernel"], kernel, precision)
    shift = matmul(params["up"]["bias"][None], kernel, precision)[0]
    return dense(x, kernel, bias, precision) + dense(inner, up, shift, precision)


def gate_values(params: PyTree, config: TowerConfig) -> jax.Array | None:
    """The gates g in (0, 1), float32[K], or None for an ungated tower."""
    if not config.gated:
        return None
    return jax.nn.sigmoid(params["gates"].astype(jnp.float32) / config.gate_temperature)


def intra_states(
    params: PyTree, taps: jax.Array, config: TowerConfig, precision: Precision, output: Affine | None = None
) -> jax.Array:
    """The last state s_K of a tower over one encoder, or an affine map of it.

    Args:
        params: a tree of `tower_spec`.
        taps: float[N, K, D]; stored states, so that their gradient is usually not asked for and then not computed.
        config: see `TowerConfig`.
        precision: dtypes of the products; states are kept in `accumulate`.
        output: (W [D, E], b [E]) to return `s_K W + b` at less cost than s_K itself, see `side_block_output`.

    Returns:
        float[N, D], or float[N, E] with `output`, in `precision.accumulate`.
    """
    gates = gate_values(params, config)

    def mixtures() -> Iterator[Mixture]:
        for k, tap in enumerate(split_taps(taps, precision)):
            yield lambda state, k=k, tap=tap: gated(tap, state, None if gates is None else gates[k], config)

    return climb(params, mixtures(), config, precision, output)


def gated(tap: jax.Array, state: jax.Array | None, gate: jax.Array | None, config: TowerConfig) -> jax.Array:
    """What a block reads of its own tap and the state below, float[N, D]; `state` is None at the first tap."""
    if state is None:
        return tap if gate is None or not config.first_gate_against_zero else gate * tap
    # g·h + (1-g)·s written so that the gate's gradient is one sum over the rows and not two.
    return state + tap if gate is None else state + gate * (tap - state)


def weighted_sum(weights: Sequence[jax.Array], taps: Sequence[jax.Array]) -> jax.Array:
    """`Σ_n w_n h_n`, float[N, D], for scalars w_n and float[N, D] h_n."""
    return reduce(jnp.add, [weight * tap for weight, tap in zip(weights, taps, strict=True)])


def inter_states(
    params: PyTree,
    first: jax.Array,
    second: jax.Array,
    config: TowerConfig,
    precision: Precision,
    presence: tuple[jax.Array, jax.Array] | None = None,
    output: Affine | None = None,
) -> jax.Array:
    """The last state m_K of a tower over two encoders: `m_k = SANB_k(m_{k-1} + g_k first_k + (1 - g_k) second_k)`.

    The sum over taps is not normalized, so m grows with depth; it is kept in `precision.accumulate`.

    Args:
        params: a tree of `tower_spec`.
        first, second: taps as in `intra_states`, equally many and equally wide.
        config: see `TowerConfig`.
        precision: dtypes of the products.
        presence: per side bool[N, 1], which rows have that side. A row with one side takes that side with weight 1:
            the gate mixes what is there.
        output: as in `intra_states`.

    Returns:
        float[N, D], or float[N, E] with `output`, in `precision.accumulate`.
    """
    gates = gate_values(params, config)

    def mixtures() -> Iterator[Mixture]:
        pairs = zip(split_taps(first, precision), split_taps(second, precision), strict=True)
        for k, (one, other) in enumerate(pairs):
            if gates is None:
                joint = one + other
            elif presence is None:
                joint = other + gates[k] * (one - other)
            else:
                with_one, with_other = presence
                joint = jnp.where(with_other, gates[k], 1.0) * one + jnp.where(with_one, 1.0 - gates[k], 1.0) * other
            yield lambda state, joint=joint: joined(state, joint, config)

    return climb(params, mixtures(), config, precision, output)


def joined(state: jax.Array | None, joint: jax.Array, config: TowerConfig) -> jax.Array:
    """What a block over several encoders reads: its tap's mixture and the state below, added or averaged."""
    if state is None:
        return joint
    return state + joint if config.inter_additive else 0.5 * (state + joint)


def climb(
    params: PyTree, mixtures: Iterable[Mixture], config: TowerConfig, precision: Precision, output: Affine | None
) -> jax.Array:
    """Runs the blocks one after the other; each mixture makes a block's input from the state below it."""
    blocks = [params["blocks"][str(k)] for k in range(len(params["blocks"]))]
    state = None
    for k, (block, mixture) in enumerate(zip(blocks, mixtures, strict=True)):
        mixed = mixture(state)
        if output is not None and k == len(blocks) - 1:
            return side_block_output(block, mixed, output, config.activation, precision)
        state = side_block(block, mixed, config.activation, precision)
    assert state is not None
    return state


def split_taps(taps: jax.Array, precision: Precision) -> list[jax.Array]:
    """K arrays float[N, D] in `precision.accumulate` from float[N, K, D]."""
    return [taps[:, k].astype(precision.accumulate) for k in range(taps.shape[1])]


def side_tower(
    taps: int, width: int, bottleneck: int = 64, *, config: TowerConfig | None = None, precision: Precision = FLOAT32
) -> Module:
    """A tower over one encoder as a module: `apply(params, float[N, K, D]) -> float32[N, D]`.

    Args:
        taps: number of taps K.
        width: width D of the states.
        bottleneck: inner width R, when no `config` is given.
        config: everything else, see `TowerConfig`.
        precision: dtypes of the products.
    """
    config = config or TowerConfig(bottleneck=bottleneck)

    def apply(params: PyTree, states: jax.Array, *, key: Any = None, train: bool = False) -> jax.Array:
        check_taps_shape("states", states, taps, width)
        return intra_states(params, states, config, precision).astype(jnp.float32)

    return Module(tower_spec(taps, width, config), apply)


def check_taps_shape(name: str, states: jax.Array, taps: int, width: int) -> None:
    """Refuses taps of another number or width than the tower was built for.

    Raises:
        ConfigError: with both shapes.
    """
    if states.ndim != 3 or states.shape[1:] != (taps, width):
        raise ConfigError(f"{name}: got taps of shape {states.shape}, expected [N, {taps}, {width}].")
