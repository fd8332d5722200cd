"""Score fusion: the embedding of an example is the sum of the embeddings of what it has."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from erel_jax.errors import ConfigError
from erel_jax.fusion.presence import check_inputs, check_present, kept
from erel_jax.layers import l2_normalize


def score_fusion(embeddings: Sequence[jax.Array], present: jax.Array) -> jax.Array:
    """`normalize(Σ_m p_m e_m)`, without parameters.

    The dot product of two such sums is a sum of the scores of all pairs of modalities, hence the name. Embeddings are
    added as they are: their lengths act as gates, so normalizing them before would be another method.

    Args:
        embeddings: M times float[B, E], one per modality, in one space and not normalized.
        present: bool[B, M]; False leaves the modality out, exactly as if it were not in the list.

    Returns:
        float32[B, E] of length 1. A row with nothing present is 0, and so is its gradient.

    Raises:
        ConfigError: shapes or dtypes that do not fit.

    Numerics: summed and normalized in float32. Values in absent places, NaN included, have no influence.

    Cost: 0 parameters, about `2·B·M·E` operations.

    Reference: CLIP-SF of UniIR (Wei et al. 2024). Relation: `feature_fusion` lets tokens of the modalities meet.
    The order of the modalities is irrelevant.

    >>> import jax.numpy as jnp
    >>> text, image = jnp.array([[3.0, 0.0], [3.0, 0.0]]), jnp.array([[0.0, 4.0], [0.0, 4.0]])
    >>> score_fusion([text, image], jnp.array([[True, True], [False, True]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 1.0]]
    """
    batch = check_inputs(embeddings, "BE")
    check_present(present, batch, len(embeddings))
    widths = [jnp.shape(x)[1] for x in embeddings]
    if len(set(widths)) != 1:
        raise ConfigError(
            f"got embeddings of widths {widths}, expected one width E; project them into one space first."
        )
    parts = [kept(x.astype(jnp.float32), present[:, m]) for m, x in enumerate(embeddings)]
    return l2_normalize(sum(parts[1:], start=parts[0]))
