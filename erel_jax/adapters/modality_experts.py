"""Mixture of modality experts: one item vector from the vectors of its modalities.

Every modality has an expert, an affine map of its vector, and a router weighs the experts for each item:

    π = softmax(W [e_1; …; e_M]),   item = Σ_m π_m f_m(e_m)

A modality that an item lacks gets the router logit minus infinity, so the item is the mixture of what it has, and
neither its vector nor any gradient depends on the absent ones. Reference: MOMEF of CROSSAN, arXiv 2504.10307,
reconstructed from its description.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.adapters.side_heads import affine_spec
from erel_jax.layers import Precision, dense
from erel_jax.module import ParamSpec, zeros


def modality_experts_spec(names: tuple[str, ...], embedding: int) -> dict[str, Any]:
    """`experts/<modality>` [E, E] with bias, and, for several modalities, `router` [M·E, M].

    The router starts at zero: every modality that is there has the same weight.
    """
    spec: dict[str, Any] = {"experts": {name: affine_spec(embedding, embedding) for name in names}}
    if len(names) > 1:
        spec["router"] = {"kernel": ParamSpec((len(names) * embedding, len(names)), (None, None), zeros)}
    return spec


def route(
    params: Any, vectors: Mapping[str, jax.Array], there: Mapping[str, jax.Array] | None, precision: Precision
) -> jax.Array:
    """The weights π float32[N, M] in the order of `vectors`, each row summing to 1 (to 0 without any modality).

    Args:
        params: with `router`, see `modality_experts_spec`.
        vectors: float[N, E] by modality, zeros where it is absent.
        there: bool[N, 1] by modality, or None.
        precision: dtypes of the product; the softmax is float32.
    """
    columns = list(vectors.values())
    present = None if there is None else jnp.concatenate([there[name] for name in vectors], axis=1)
    if "router" not in params:
        one = jnp.ones((columns[0].shape[0], 1), jnp.float32)
        return one if present is None else present.astype(jnp.float32)
    logits = dense(jnp.concatenate(columns, axis=1), params["router"]["kernel"], None, precision).astype(jnp.float32)
    if present is None:
        return jax.nn.softmax(logits, axis=1)
    anything = jnp.any(present, axis=1, keepdims=True)
    # A row of minus infinities alone would make NaN; such rows are set to zero afterwards.
    masked = jnp.where(present | ~anything, logits, -jnp.inf)
    return jnp.where(anything, jax.nn.softmax(masked, axis=1), 0.0)


def modality_experts(
    params: Any, vectors: Mapping[str, jax.Array], there: Mapping[str, jax.Array] | None, precision: Precision
) -> jax.Array:
    """The mixture, float32[N, E]; zeros for an item without any modality.

    Args:
        params: a tree of `modality_experts_spec`.
        vectors: float[N, E] by modality; rows of absent modalities must be finite.
        there: bool[N, 1] by modality, or None where every modality is there.
        precision: dtypes of the products.
    """
    if there is not None:
        vectors = {name: jnp.where(there[name], vector, 0.0) for name, vector in vectors.items()}
    weights = route(params, vectors, there, precision)
    total = jnp.zeros(next(iter(vectors.values())).shape, jnp.float32)
    for m, (name, vector) in enumerate(vectors.items()):
        expert = params["experts"][name]
        given = dense(vector, expert["kernel"], expert["bias"], precision).astype(jnp.float32)
        total += weights[:, m : m + 1] * given
    return total
