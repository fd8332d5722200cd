"""Recipes with smaller towers: a student of a quarter of the work, alone or with a teacher."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from erel_jax.adapters.adapted import dual_encoder
from erel_jax.adapters.method import named_method
from erel_jax.benchmark.recipes.recipe import BASE, Start
from erel_jax.benchmark.retrieval_training import (
    MODALITIES,
    Encode,
    Plan,
    adaptation,
    contrast,
    stored_vectors,
)
from erel_jax.distillation import interactive_contrastive_loss, quarter_student
from erel_jax.interop.huggingface import Loaded
from erel_jax.layers import precision as precisions

TAUGHT = 2.0
"""Weight of what the teacher says beside the pairs, by validation recall on glyphs."""


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
    # In the space of the towers they were cut from, so that a student can search what its teacher has encoded.
    width = min(tower.encoder.embedding_width for tower in start.problem.towers.values())
    adapted = dual_encoder(
        {m: t.encoder for m, t in towers.items()}, named_method(BASE), embedding=width, precision=precision
    )
    return dataclasses.replace(plan, name=name, adapted=adapted, notes=(f"towers: {sizes}",))


def distilled_recipe(name: str, start: Start) -> Plan:
    """The same towers, which also learn to find the stored vectors of the full towers trained before.

    To the contrastive loss it adds that of the student's texts among the teacher's pictures and the reverse (CLIP-KD's
    interactive contrast). CLIP-KD's other terms, affinity and features, lowered the validation recall in the few epochs
    of a bench run; `distillation` has them for longer training.
    """
    teacher = stored_vectors(adaptation(start.problem, BASE, start.seed), start.messenger)
    plan, loss = student_recipe(name, start), contrast(start.problem.config)

    def objective(encode: Encode, params: Any, batch: Mapping[str, Any], key: Any) -> jax.Array:
        vectors = encode(params, {name: batch[name] for name in MODALITIES}, key)
        pair, teachers = (vectors["text"], vectors["image"]), (batch["teacher_text"], batch["teacher_image"])
        scale, group = params["head"]["logit_scale"], batch["text_id"]
        taught = interactive_contrastive_loss(*pair, *teachers, scale, group=group)
        return loss(*pair, scale, group=group) + TAUGHT * taught

    return dataclasses.replace(
        plan,
        objective=objective,
        columns=teacher.columns("teacher"),
        seconds=teacher.seconds,
        notes=(*plan.notes, *teacher.notes),
    )
