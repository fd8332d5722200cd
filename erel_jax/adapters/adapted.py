"""From encoders and a method to a trainable model.

Two shapes serve the two tasks:

- `dual_encoder`: each tower gives its own vector, so a query and an item can be encoded apart (retrieval);
- `item_encoder`: the towers of one item are fused into one vector (recommendation).

Parameters are `{"towers": {modality: …}, "head": …}`, and for side networks `"standardize"`, the fixed shift and scale
of what they read (`standardized` measures it). A cached method has no towers in its parameters: it is fed with what the
towers said once.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax import module
from erel_jax.adapters.checks import check_counts
from erel_jax.adapters.crossan import crossan
from erel_jax.adapters.iisan import iisan
from erel_jax.adapters.method import Method
from erel_jax.adapters.side_heads import Presence, presence_columns
from erel_jax.adapters.side_tower import TowerConfig, side_tower
from erel_jax.adapters.standardize import measure_standardization, standardization_spec, standardize
from erel_jax.adapters.taps import tap_states, widen
from erel_jax.adapters.versa import versa
from erel_jax.encoders.encoded import Encoder
from erel_jax.errors import ConfigError
from erel_jax.layers import FLOAT32, Precision, dense
from erel_jax.layers.activation import activation
from erel_jax.module import Module, ParamSpec, uniform, zeros

REFERENCE_WIDTH = 768
"""Width of the towers that the methods' default learning rates are meant for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapted:
    """A model to train.

    Attributes:
        module: spec and `apply(params, inputs, …)`.
        method: the method it was made by.
        encoders: the towers it adapts, by modality.
        trainable: patterns over the module's parameters that train.
        learning_rates: (pattern, rate) pairs, the first match counts.
        taps: per modality the state indices a side network reads; empty for the others.
    """

    module: Module
    method: Method
    encoders: Mapping[str, Encoder]
    trainable: tuple[str, ...]
    learning_rates: tuple[tuple[str, float], ...]
    taps: Mapping[str, tuple[int, ...]]

    def read(self, modality: str, params: Any, inputs: Any, *, key: Any = None, train: bool = False) -> jax.Array:
        """What the head of `modality` is fed with: the live tower's output, or the stored states given as `inputs`."""
        if self.method.cached:
            return widen(inputs)
        return read_tower(self.encoders[modality], params, inputs, self.taps.get(modality), key=key, train=train)


def read_tower(
    encoder: Encoder, params: Any, inputs: Any, taps: tuple[int, ...] | None, *, key: Any = None, train: bool = False
) -> jax.Array:
    """One tower's pooled embedding float[B, E], or its taps float[B, K, D] when `taps` are given."""
    if taps is None:
        return encoder.module.apply(params, inputs, key=key, train=train).embedding
    return encoder.module.apply(params, inputs, taps=taps, embedding=False, key=key, train=train).taps


def dual_encoder(
    encoders: Mapping[str, Encoder],
    method: Method,
    *,
    embedding: int | None = None,
    bottleneck: int = 64,
    precision: Precision = FLOAT32,
) -> Adapted:
    """Two towers adapted side by side.

    `module.apply(params, {modality: inputs}) -> {modality: float32[B, E]}` computes the modalities it is given; the
    vectors are not normalized. Where both towers are equally wide, heads start as the identity, so that training
    starts from the encoders' own alignment; otherwise they start as random orthogonal maps to width E.
    `head/logit_scale` is the learned log inverse temperature. Learning rates are the method's, times 768 over the
    towers' width: with Adam, narrow towers want proportionally larger steps (Yang et al. 2022, arXiv 2203.03466).

    Args:
        encoders: towers by modality.
        method: what to train, see `adapters.METHODS`.
        embedding: width E of the vectors; None takes that of the narrower tower.
        bottleneck: width of a side network's blocks.
        precision: dtypes of heads and side networks (towers keep the precision they were built with).

    Raises:
        ConfigError: no tower, a width below 1, or at `apply` an input of an unknown modality.
    """
    _check_sizes(encoders, embedding=1 if embedding is None else embedding, bottleneck=bottleneck)
    encoders, taps = _rebuilt(encoders, method, precision), _taps(encoders, method)
    widths = {name: encoder.width if name in taps else encoder.embedding_width for name, encoder in encoders.items()}
    width = embedding or min(widths.values())
    head: dict[str, Any] = {"logit_scale": ParamSpec((), (), _constant(2.659))}
    sides: dict[str, Module] = {}
    for name in encoders:
        part: dict[str, Any] = {}
        if method.head == "side":
            sides[name] = side_tower(len(taps[name]), encoders[name].width, bottleneck, precision=precision)
            part["side"] = sides[name].spec
        if method.head != "none" or set(widths.values()) != {width}:
            part["project"] = {"kernel": ParamSpec((widths[name], width), ("embed", None), _orthogonal)}
        head[name] = part

    def apply(params: Any, inputs: Mapping[str, Any], *, key: Any = None, train: bool = False) -> dict[str, jax.Array]:
        outputs = {}
        _check_modalities(inputs, set(inputs) - set(encoders), encoders)
        for name, given in inputs.items():
            tower = params["towers"][name] if not method.cached else None
            states = _standard(params, name, adapted.read(name, tower, given, key=key, train=train))
            part = params["head"][name]
            if name in sides:
                states = sides[name].apply(part["side"], states)
            if "project" in part:
                states = dense(states, part["project"]["kernel"], None, precision)
            outputs[name] = states.astype(jnp.float32)
        return outputs

    trains_head = () if method.head == "none" else ("head/.*",)
    scale = REFERENCE_WIDTH / max(encoder.width for encoder in encoders.values())
    adapted = _adapted(Module({"head": head}, apply), encoders, method, trains_head, taps, scale)
    return adapted


def item_encoder(
    encoders: Mapping[str, Encoder],
    method: Method,
    *,
    embedding: int = 64,
    bottleneck: int = 64,
    precision: Precision = FLOAT32,
) -> Adapted:
    """One vector per item from all its modalities.

    `module.apply(params, {modality: inputs}, presence=None) -> float32[N, embedding]`. A side method fuses with the
    network it names: IISAN's intra and inter towers, Versa's or CROSSAN's. The others map each tower through an affine
    head (after a GELU where the tower runs live, as in the released baselines) and, with several modalities, fuse by
    one affine map of the concatenation. `frozen` projects with a fixed random orthogonal map.

    Args:
        encoders: towers by modality, in the order they are fused.
        method: what to train.
        embedding: width E of the item vector.
        bottleneck: width of a side network's blocks.
        precision: dtypes of heads and side networks.

    An absent modality (`presence[n, m]` False) contributes nothing: the result is that of the others alone. As in
    `iisan`, presence may also be bool[N] per modality.

    Raises:
        ConfigError: no tower, a width below 1, or at `apply` inputs or a presence that do not fit the modalities.
    """
    _check_sizes(encoders, embedding=embedding, bottleneck=bottleneck)
    encoders, taps = _rebuilt(encoders, method, precision), _taps(encoders, method)
    if method.head == "side":
        shapes = {name: (len(taps[name]), encoders[name].width) for name in encoders}
        head, fuse = _side_network(method.side, shapes, embedding, bottleneck, precision)
    else:
        head = _affine_heads(encoders, embedding, fixed=method.head == "none")
        names = tuple(encoders)

        def fuse(params: Any, states: Mapping[str, jax.Array], presence: Presence | None = None) -> jax.Array:
            return _fuse_affine(params, states, presence, names, gelu=not method.cached, precision=precision)

    def apply(
        params: Any,
        inputs: Mapping[str, Any],
        presence: Presence | None = None,
        *,
        key: Any = None,
        train: bool = False,
    ) -> jax.Array:
        rows, states = _rows(inputs, encoders), {}
        there = None if method.cached else presence_columns(presence, tuple(encoders), rows)
        for name in encoders:
            tower = params["towers"][name] if not method.cached else None
            given = inputs[name] if there is None else _known_rows(inputs[name], there[name])
            states[name] = _standard(params, name, adapted.read(name, tower, given, key=key, train=train))
        return fuse(params["head"], states, presence).astype(jnp.float32)

    trains_head = () if method.head == "none" else ("head/.*",)
    adapted = _adapted(Module({"head": head}, apply), encoders, method, trains_head, taps)
    return adapted


def _rebuilt(encoders: Mapping[str, Encoder], method: Method, precision: Precision) -> Mapping[str, Encoder]:
    return {name: method.rebuild(encoder, precision) for name, encoder in encoders.items()}


def _check_sizes(encoders: Mapping[str, Encoder], **sizes: int) -> None:
    if not encoders:
        raise ConfigError("got no encoder, expected at least one.")
    check_counts(**sizes)


def _check_modalities(inputs: Mapping[str, Any], wrong: set[str], encoders: Mapping[str, Encoder]) -> None:
    if wrong:
        raise ConfigError(f"got inputs of {sorted(inputs)} for encoders of {sorted(encoders)}; {sorted(wrong)} differ.")


def _rows(inputs: Mapping[str, Any], encoders: Mapping[str, Encoder]) -> int:
    """How many items the inputs are of; other numbers of another modality would pair wrong rows."""
    _check_modalities(inputs, set(encoders) - set(inputs), encoders)
    rows = {name: jax.tree.leaves(inputs[name])[0].shape[0] for name in encoders}
    if len(set(rows.values())) > 1:
        raise ConfigError(f"got inputs of {rows} items, expected equally many of each modality.")
    return next(iter(rows.values()))


def _taps(encoders: Mapping[str, Encoder], method: Method) -> dict[str, tuple[int, ...]]:
    return {n: tap_states(e.layers) for n, e in encoders.items()} if method.head == "side" else {}


def _adapted(
    heads: Module,
    encoders: Mapping[str, Encoder],
    method: Method,
    trains_head: tuple[str, ...],
    taps: Any,
    scale: float = 1.0,
) -> Adapted:
    spec = dict(heads.spec)
    if taps:
        spec["standardize"] = {n: standardization_spec(len(taps[n]), encoders[n].width) for n in encoders}
    if not method.cached:
        spec["towers"] = {name: method.rewrite(encoder.module.spec) for name, encoder in encoders.items()}
    in_towers = tuple(f"towers/[^/]+/(?:{pattern})" for pattern in method.trains)
    rates = [(pattern, scale * method.tower_learning_rate) for pattern in in_towers]
    return Adapted(
        module=Module(spec, heads.apply),
        method=method,
        encoders=dict(encoders),
        trainable=in_towers + trains_head,
        learning_rates=(*rates, (".*", scale * method.learning_rate)),
        taps=taps,
    )


def tower_parameters(adapted: Adapted, key: jax.Array, towers: Mapping[str, Any]) -> Any:
    """Parameters of an adapted model: the given towers where it runs them, fresh adapters and heads.

    Args:
        adapted: the model.
        key: key for what is new.
        towers: pretrained parameters by modality.

    Raises:
        ConfigError: a tower's are missing: it would be drawn at random and pass for a pretrained one.
    """
    absent = sorted(set(adapted.encoders) - set(towers))
    if absent and not adapted.method.cached:
        raise ConfigError(f"got parameters of the towers {sorted(towers)}, expected those of {absent} too.")
    convert = adapted.method.convert
    existing = {} if adapted.method.cached else {"towers": {name: convert(tower) for name, tower in towers.items()}}
    return module.fill(key, adapted.module.spec, existing)


def standardized(adapted: Adapted, params: Any, sample: Callable[[str], np.ndarray]) -> Any:
    """Parameters whose side networks read standardized states; those of other methods as they are.

    Args:
        adapted: the model.
        params: its parameters.
        sample: `sample(modality) -> float[N, K, D]`, taps of some items that have this modality.
    """
    if "standardize" not in params:
        return params
    return {**params, "standardize": {name: measure_standardization(sample(name)) for name in adapted.encoders}}


def _standard(params: Any, name: str, states: jax.Array) -> jax.Array:
    return standardize(params["standardize"][name], states) if "standardize" in params else states


def _side_network(
    side: str, shapes: Mapping[str, tuple[int, int]], embedding: int, bottleneck: int, precision: Precision
) -> Module:
    if side == "versa":
        return versa(shapes, embedding=embedding, bottleneck=bottleneck, precision=precision)
    if side == "crossan":
        return crossan(shapes, embedding=embedding, config=TowerConfig(bottleneck=bottleneck), precision=precision)
    return iisan(shapes, embedding=embedding, bottleneck=bottleneck, precision=precision)


def _known_rows(inputs: Any, there: jax.Array) -> Any:
    """A live tower's inputs with zeros for absent items: its backward pass would make NaN of NaN times zero."""

    def known(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(there.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(known, inputs)


def _affine_heads(encoders: Mapping[str, Encoder], embedding: int, fixed: bool) -> dict[str, Any]:
    heads: dict[str, Any] = {}
    for name, encoder in encoders.items():
        bound = uniform(encoder.embedding_width**-0.5)
        heads[name] = {
            "kernel": ParamSpec((encoder.embedding_width, embedding), ("embed", None), _orthogonal if fixed else bound),
            "bias": ParamSpec((embedding,), (None,), zeros if fixed else bound),
        }
    if len(encoders) > 1:
        width = embedding * len(encoders)
        bound = uniform(width**-0.5)
        heads["fusion"] = {
            "kernel": ParamSpec((width, embedding), (None, None), _orthogonal if fixed else bound),
            "bias": ParamSpec((embedding,), (None,), zeros if fixed else bound),
        }
    return heads


def _fuse_affine(
    params: Any,
    states: Mapping[str, jax.Array],
    presence: Presence | None,
    names: tuple[str, ...],
    *,
    gelu: bool,
    precision: Precision,
) -> jax.Array:
    vectors, columns = [], presence_columns(presence, names, states[names[0]].shape[0])
    for name in names:
        state, there = states[name], None if columns is None else columns[name]
        if there is not None:
            # Whatever an absent item's row holds, NaN included, must not reach the kernel's gradient either.
            state = jnp.where(there, state, jnp.zeros((), state.dtype))
        vector = dense(state, params[name]["kernel"], params[name]["bias"], precision)
        vector = activation("gelu")(vector) if gelu else vector
        vectors.append(vector if there is None else jnp.where(there, vector, 0.0))
    if len(vectors) == 1:
        return vectors[0]
    joined = jnp.concatenate(vectors, axis=-1)
    return dense(joined, params["fusion"]["kernel"], params["fusion"]["bias"], precision)


def _constant(value: float):
    return lambda key, shape, dtype=jnp.float32: jnp.full(shape, value, dtype)


def _orthogonal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    if shape[0] == shape[1]:
        return jnp.eye(shape[0], dtype=dtype)
    return jax.nn.initializers.orthogonal()(key, shape, dtype)
