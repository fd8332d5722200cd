"""Recipes with smaller towers: a student of a quarter of the work, alone or with a teacher."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax

from erel_jax import module
from erel_jax.benchmark.recipes.recipe import BASE, Start
from erel_jax.benchmark.retrieval_training import (
    MODALITIES,
    Encode,
    Plan,
    adaptation,
    contrast,
    stored_vectors,
)
from erel_jax.distillation import (
    FEATURE_WEIGHT,
    affinity_loss,
    feature_loss,
    interactive_contrastive_loss,
    quarter_student,
)
from erel_jax.interop.huggingface import Loaded
from erel_jax.layers import precision as precisions

TEACHER_SCALE = math.log(50.0)
"""Log of the factor on the teacher's cosines, as in TinyCLIP."""


def student_recipe(name: str, start: Start) -> Plan:
    """Towers of at most a quarter of the FLOPs, cut out of those given, trained like `full` on the pairs alone."""
    precision = precisions.named(start.problem.config.precision)

    def smaller(tower: Loaded) -> Loaded:
        encoder, params = quarter_student(tower.encoder, tower.params, precision)
        return dataclasses.replace(tower, encoder=encoder, params=params, fingerprint=f"{tower.fingerprint}-quarter")

    towers = {modality: smaller(tower) for modality, tower in start.problem.towers.items()}
    sizes = ", ".join(
        f"{modality} {tower.encoder.layers} layers of width {tower.encoder.width}" for modality, tower in towers.items()
    )
    plan = adaptation(dataclasses.replace(start.problem, towers=towers), BASE, start.seed)
    return dataclasses.replace(plan, name=name, notes=(f"towers: {sizes}",))


def distilled_recipe(name: str, start: Start) -> Plan:
    """The same towers, which also learn from the stored vectors of the full towers trained before (CLIP-KD)."""
    teacher = stored_vectors(adaptation(start.problem, BASE, start.seed), start.messenger)
    columns = teacher.columns("teacher")
    plan, loss = student_recipe(name, start), contrast(start.problem.config)
    shape = _width(plan), columns["teacher_image"].shape[1]

    def objective(encode: Encode, params: Any, batch: Mapping[str, Any], key: Any) -> jax.Array:
        vectors = encode(params, {name: batch[name] for name in MODALITIES}, key)
        pair, teachers = (vectors["text"], vectors["image"]), (batch["teacher_text"], batch["teacher_image"])
        scale, group = params["head"]["logit_scale"], batch["text_id"]
        kernels = params["objective"]["text"], params["objective"]["image"]
        mapped = [vector @ kernel for vector, kernel in zip(pair, kernels, strict=True)]
        features = sum(feature_loss(own, theirs) for own, theirs in zip(mapped, teachers, strict=True))
        return (
            loss(*pair, scale, group=group)
            + affinity_loss(*pair, *teachers, scale, TEACHER_SCALE)
            + interactive_contrastive_loss(*mapped, *teachers, scale, group=group)
            + FEATURE_WEIGHT * features
        )

    spec = {name: module.ParamSpec(shape, (None, None), module.normal(shape[0] ** -0.5)) for name in MODALITIES}
    extras = module.init(jax.random.key(start.seed), {"objective": spec})["objective"]
    return dataclasses.replace(
        plan,
        objective=objective,
        extras=extras,
        columns=columns,
        seconds=teacher.seconds,
        notes=(*plan.notes, *teacher.notes),
    )


def _width(plan: Plan) -> int:
    return min(encoder.embedding_width for encoder in plan.adapted.encoders.values())
