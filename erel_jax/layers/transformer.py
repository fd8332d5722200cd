"""Transformer blocks and the scanned stack that all encoders share.

`block_spec` / `block` are one layer in post-norm (BERT) or pre-norm (ViT, CLIP) form. `run_stack` scans a stack of
layers and can emit something small per layer (a pooled vector: a *tap*) so that no layer's tokens are kept; with
`depth` it runs only the first layers.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Collection, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from erel_jax.errors import ConfigError
from erel_jax.layers.attention import attention_spec, attention_with_keys
from erel_jax.layers.mlp import fused_gated_mlp, fused_gated_mlp_spec, mlp, mlp_spec
from erel_jax.layers.norm import layer_norm, layer_norm_spec
from erel_jax.layers.precision import Precision
from erel_jax.module import ParamSpec, stack

_unroll: contextvars.ContextVar[bool] = contextvars.ContextVar("unroll_stacks", default=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """One transformer layer.

    Attributes:
        width: model width D.
        heads: attention heads H.
        mlp_width: feed-forward width F.
        activation: name of the MLP's activation.
        norm: "post" (norm after each residual sum, BERT) or "pre" (norm before each sub-layer, ViT and CLIP).
        eps: epsilon of the norms.
        gated: whether the MLP has a gate, in one kernel with what it gates (SwiGLU).
        head_width: width K of a head; None means D / H.
    """

    width: int
    heads: int
    mlp_width: int
    activation: str = "gelu"
    norm: str = "pre"
    eps: float = 1e-12
    gated: bool = False
    head_width: int | None = None

    def __post_init__(self):
        if self.head_width is not None and self.head_width < 1:
            raise ConfigError(f"got head_width {self.head_width}, expected 1 or more.")
        if self.head_width is None and self.width % self.heads:
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}.")
        if self.norm not in ("pre", "post"):
            raise ConfigError(f"got norm {self.norm!r}, expected 'pre' or 'post'.")


def block_spec(
    config: BlockConfig, *, bias: bool | Collection[str] = True, branch_scale: float | None = None
) -> dict[str, Any]:
    """Parameters of one layer: `attention`, `attention_norm`, `mlp`, `mlp_norm`.

    Args:
        config: the layer.
        bias: which attention projections have biases, as in `attention_spec`.
        branch_scale: first value of a factor per channel on what each sub-layer adds to the residual stream
            (`attention_scale`, `mlp_scale`: the layer scale of DINOv2 and BEiT); None for no such factors.
    """
    gated = fused_gated_mlp_spec(config.width, config.mlp_width, bias=True) if config.gated else None
    inner = None if config.head_width is None else config.heads * config.head_width
    spec = {
        "attention": attention_spec(config.width, bias=bias, inner=inner),
        "attention_norm": layer_norm_spec(config.width),
        "mlp": gated or mlp_spec(config.width, config.mlp_width),
        "mlp_norm": layer_norm_spec(config.width),
    }
    if branch_scale is not None:
        scale = ParamSpec((config.width,), ("embed",), jax.nn.initializers.constant(branch_scale))
        spec |= {"attention_scale": {"scale": scale}, "mlp_scale": {"scale": scale}}
    return spec


def block(
    config: BlockConfig,
    precision: Precision,
    params: dict[str, Any],
    x: jax.Array,
    mask: jax.Array | None,
    score_bias: jax.Array | None = None,
) -> jax.Array:
    """One transformer layer on float[B, L, D].

    Args:
        config: the layer.
        precision: dtypes of the layer.
        params: a tree of `block_spec`.
        x: float[B, L, D].
        mask, score_bias: as in `attention.attend`.
    """

    def attention(y: jax.Array) -> jax.Array:
        return attention_branch(config, precision, params, y, mask, score_bias)[0]

    if config.norm == "pre":
        x = x + attention(layer_norm(params["attention_norm"], x, config.eps))
        return x + feed_forward_branch(config, precision, params, layer_norm(params["mlp_norm"], x, config.eps))
    x = layer_norm(params["attention_norm"], x + attention(x), config.eps)
    return layer_norm(params["mlp_norm"], x + feed_forward_branch(config, precision, params, x), config.eps)


def attention_branch(
    config: BlockConfig,
    precision: Precision,
    params: dict[str, Any],
    y: jax.Array,
    mask: jax.Array | None,
    score_bias: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What a layer's attention adds to the residual stream float[B, L, D], and its keys float[B, L, H, K].

    Args:
        config, precision, params, mask, score_bias: as in `block`.
        y: float[B, L, D], what the sub-layer reads.
    """
    mixed, key = attention_with_keys(
        params["attention"], y, mask, heads=config.heads, precision=precision, score_bias=score_bias
    )
    return _scaled(params.get("attention_scale"), mixed), key


def feed_forward_branch(config: BlockConfig, precision: Precision, params: dict[str, Any], y: jax.Array) -> jax.Array:
    """What a layer's feed-forward network adds to the residual stream; arguments as in `attention_branch`."""
    network = fused_gated_mlp if config.gated else mlp
    fed = network(params["mlp"], y, activation_name=config.activation, precision=precision)
    return _scaled(params.get("mlp_scale"), fed)


def _scaled(params: dict[str, jax.Array] | None, branch: jax.Array) -> jax.Array:
    return branch if params is None else branch * params["scale"].astype(branch.dtype)[None, None, :]


def stack_spec(
    config: BlockConfig, layers: int, *, bias: bool | Collection[str] = True, branch_scale: float | None = None
) -> dict[str, Any]:
    """`block_spec` stacked on a leading `"layers"` axis."""
    return stack(block_spec(config, bias=bias, branch_scale=branch_scale), layers)


@contextlib.contextmanager
def unrolled() -> Iterator[None]:
    """Traces stacks layer by layer instead of as a scan.

    XLA's cost analysis counts a scan's body once, whatever its length, so programs are unrolled to be measured.
    A function traced before is cached by JAX under its identity: wrap it anew inside this context.
    """
    token = _unroll.set(True)
    try:
        yield
    finally:
        _unroll.reset(token)


def unstack(params: dict[str, Any], layers: int) -> list[dict[str, Any]]:
    """A stack's parameters as one tree per layer, for programs that only read them.

    A scan copies each layer's weights out of the stack on every call, which costs as much as the products of a small
    batch. To train or store a model, keep it stacked.
    """
    return [jax.tree.map(lambda p, layer=layer: p[layer], params) for layer in range(layers)]


def keep_batch_split(x: jax.Array) -> jax.Array:
    """Keeps activations split along the batch on a mesh with a `data` axis; the identity elsewhere.

    With parameters split over `data`, the compiler may prefer to split activations by width as well, which gathers the
    whole batch on every device: four times the temporary memory for a mid-size pair of towers on eight devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if kinds.get("data") != AxisType.Auto or x.shape[0] % mesh.shape["data"]:
        return x
    free = PartitionSpec.UNCONSTRAINED
    return jax.lax.with_sharding_constraint(x, PartitionSpec("data", *[free] * (x.ndim - 1)))


def run_stack(
    layer: Callable[[dict[str, Any], Any], Any],
    params: dict[str, Any] | list[dict[str, Any]],
    x: Any,
    *,
    layers: int,
    depth: int | None = None,
    emit: Callable[[Any], Any] | None = None,
    remat: bool = False,
) -> tuple[Any, Any]:
    """Runs the first `depth` layers of a stack.

    Args:
        layer: `layer(params of one layer, x) -> x`.
        params: parameters with a leading axis of size `layers`, or a list of `layers` trees (`unstack`), which is
            run layer by layer without a scan.
        x: float[B, L, D], the embedding output (state 0), or a tree of arrays with a leading axis B; with a list of
            parameters, a layer may change their other axes.
        layers: number of layers in the stack.
        depth: layers to run; None runs all. Layers above are not computed.
        emit: applied to state 0 and to the state after each layer run.
        remat: recompute each layer in the backward pass instead of keeping its activations.

    Returns:
        (state after the last layer run, emitted values stacked on a leading axis of size depth + 1, or None).
    """
    depth = layers if depth is None else depth
    if not 0 <= depth <= layers:
        raise ConfigError(f"got depth {depth}, expected 0 to {layers}.")

    def split_layer(layer_params: dict[str, Any], state: Any) -> Any:
        split_state = jax.tree.map(keep_batch_split, state)
        return jax.tree.map(keep_batch_split, layer(layer_params, split_state))

    step = jax.checkpoint(split_layer) if remat else split_layer

    def body(carry: Any, layer_params: dict[str, Any]):
        state = step(layer_params, carry)
        return state, None if emit is None else emit(state)

    first = None if emit is None else emit(x)
    if depth == 0:
        return x, None if emit is None else jax.tree.map(lambda e: e[None], first)
    if isinstance(params, list | tuple):
        emitted = [first]
        for layer_params in params[:depth]:
            x, one = body(x, layer_params)
            emitted.append(one)
        return x, None if emit is None else jax.tree.map(lambda *states: jnp.stack(states), *emitted)
    if depth < layers:
        params = jax.tree.map(lambda p: p[:depth], params)
    x, rest = jax.lax.scan(body, x, cast(Any, params), unroll=depth if _unroll.get() else 1)
    if emit is None:
        return x, None
    return x, jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
