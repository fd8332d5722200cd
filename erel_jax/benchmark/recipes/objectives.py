"""Recipes with another loss: the sigmoid loss, and embeddings that may be cut short."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from erel_jax.benchmark.recipes.recipe import Start
from erel_jax.benchmark.retrieval_training import MODALITIES, Encode, Objective, Plan, contrast, contrastive
from erel_jax.losses import chunked_sigmoid_loss, matryoshka, sigmoid_loss


def sigmoid_recipe(name: str, start: Start) -> Plan:
    """Every combination of a text and a picture is judged alone (SigLIP)."""
    loss = chunked_sigmoid_loss if start.problem.config.sub_batch else sigmoid_loss
    return start.plan(name, objective=pairwise(loss), extras=sigmoid_start(start.plan(name).batch))


def pairwise(loss: Callable[..., jax.Array]) -> Objective:
    """The objective of a sigmoid loss with a trained scale and bias, see `sigmoid_start`."""

    def objective(encode: Encode, params: Any, batch: Mapping[str, Any], key: Any) -> jax.Array:
        vectors = encode(params, {name: batch[name] for name in MODALITIES}, key)
        own = params["objective"]
        return loss(vectors["text"], vectors["image"], own["log_scale"], own["bias"], group=batch["text_id"])

    return objective


def sigmoid_start(batch: int) -> dict[str, float]:
    """Starting values of the scale and bias of a sigmoid loss over `batch` pairs."""
    # One right answer among `batch`: the bias that predicts that rate (Zhai et al. 2023 have -10 for 32,768).
    return {"log_scale": math.log(10.0), "bias": -math.log(max(batch, 2))}


def matryoshka_recipe(name: str, start: Start) -> Plan:
    """The contrastive loss over all of the embedding, its first half, quarter and eighth."""
    plan = start.plan(name)
    width = min(encoder.embedding_width for encoder in plan.adapted.encoders.values())
    widths = [width // part for part in (1, 2, 4, 8) if width // part >= 8] or [width]
    objective = contrastive(matryoshka(contrast(start.problem.config), widths))
    return dataclasses.replace(plan, objective=objective, notes=(f"trained at the widths {widths}",))
