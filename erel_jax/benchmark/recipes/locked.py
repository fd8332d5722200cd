"""LiT with a locked image tower that runs once: training steps read what it said."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from erel_jax.benchmark.recipes.recipe import Start
from erel_jax.benchmark.retrieval_training import Encode, Plan, adaptation, contrast, stored_vectors
from erel_jax.layers import dense


def lit_cached_recipe(name: str, start: Start) -> Plan:
    """What `lit` trains, without the image tower in the step: its embeddings of the training pictures are stored."""
    plan, problem = start.plan(name, "lit"), start.problem
    locked = stored_vectors(adaptation(problem, "frozen", start.seed), start.messenger, ("image",))
    loss = contrast(problem.config)

    def objective(encode: Encode, params: Any, batch: Mapping[str, Any], key: Any) -> jax.Array:
        texts = encode(params, {"text": batch["text"]}, key)["text"]
        images = dense(batch["locked_image"], params["head"]["image"]["project"]["kernel"])
        return loss(texts, images, params["head"]["logit_scale"], group=batch["text_id"])

    return dataclasses.replace(
        plan,
        objective=objective,
        columns=locked.columns("locked"),
        feeds_on=("text",),
        seconds=locked.seconds,
        notes=locked.notes,
    )
