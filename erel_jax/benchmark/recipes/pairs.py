"""Recipes that choose pairs: once before training (filters), or at every step from a larger batch."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erel_jax.benchmark.recipes.objectives import sigmoid_start
from erel_jax.benchmark.recipes.recipe import Start
from erel_jax.benchmark.retrieval_training import (
    MODALITIES,
    Encode,
    Plan,
    adaptation,
    carried_out,
    contrast,
    contrastive,
    encoded,
    encoder_steps,
    stored_vectors,
)
from erel_jax.layers import l2_normalize
from erel_jax.selection import (
    Outcome,
    ScoringModel,
    filter_by_loss,
    learnability,
    most_learnable,
    pair_losses,
    save_selection,
    select_jointly,
)
from erel_jax.selection import semdedup as near_duplicates

JUDGE = "iisan_cached"
"""Who judges pairs: it reads stored states, so that judging costs little."""
DUPLICATE = 0.05
SUPER_BATCH = 2
CHUNKS = 16


def semdedup_recipe(name: str, start: Start) -> Plan:
    """Without pairs whose picture and text both say what those of another pair say (SemDeDup)."""
    frozen = stored_vectors(adaptation(start.problem, "frozen", start.seed), start.messenger)
    begun = time.perf_counter()
    # A pair is a copy of another where both its picture and its text are.
    sides = list(frozen.columns("frozen").values())
    outcome = near_duplicates(np.concatenate(sides, axis=1) / math.sqrt(len(sides)), epsilon=DUPLICATE)
    return _restricted(start, name, outcome, frozen.seconds + time.perf_counter() - begun)


def small_loss_recipe(name: str, start: Start) -> Plan:
    """Two judges, each trained on one half of the pairs, say how hard the pairs of the other half are."""
    problem, begun = start.problem, time.perf_counter()
    split = problem.split("train")
    halves = np.array_split(np.random.default_rng(start.seed).permutation(len(split)), 2)
    found = np.zeros(len(split), np.float32)
    for number, (mine, others) in enumerate([halves, halves[::-1]]):
        plan = dataclasses.replace(adaptation(problem, JUDGE, start.seed), name=f"{name}-judge{number}", rows=mine)
        start.messenger.note(f"training judge {number + 1} of 2 ({JUDGE}) on half of the pairs")
        judge = carried_out(plan, start.messenger)
        vectors = encoded(judge, encoder_steps(plan.adapted), "train", start.messenger, rows=others)
        texts = split.text_of_image[others]
        found[others] = pair_losses(vectors["text"][texts], vectors["image"], group=texts)
    return _restricted(start, name, filter_by_loss(found), time.perf_counter() - begun)


def _restricted(start: Start, name: str, outcome: Outcome, seconds: float) -> Plan:
    folder = start.problem.config.out_folder / "selections" / f"{name}-seed{start.seed}"
    save_selection(folder, outcome, overwrite=True)
    start.messenger.note(f"{outcome.describe()} Listed with reasons in {folder}")
    notes = (outcome.describe(), f"choosing pairs took {seconds:.0f} s, counted as extraction")
    return start.plan(name, rows=outcome.kept, notes=notes, seconds=seconds)


def learnability_recipe(name: str, start: Start) -> Plan:
    """Each step trains on the pairs that are hard for the learner and easy for the reference, one by one."""

    def choose(learner: ScoringModel, reference: ScoringModel, count: int, group: jax.Array) -> jax.Array:
        del group
        return most_learnable(learnability(_own_losses(learner), _own_losses(reference)), count)

    return _choosing(name, start, choose)


def jest_recipe(name: str, start: Start) -> Plan:
    """Each step trains on the pairs that are jointly most learnable (JEST)."""

    def choose(learner: ScoringModel, reference: ScoringModel, count: int, group: jax.Array) -> jax.Array:
        return select_jointly(learner, reference, count=count, chunks=math.gcd(count, CHUNKS), group=group)

    return _choosing(name, start, choose)


Choose = Callable[[ScoringModel, ScoringModel, int, jax.Array], jax.Array]


def _choosing(name: str, start: Start, choose: Choose) -> Plan:
    """Each step reads a super-batch, scores it under learner and reference, and trains on the pairs chosen.

    Both are scored with the sigmoid loss, as published, at the learner's scale and the bias that predicts one right
    answer per batch; what then trains is the contrastive loss of all recipes.
    """
    reference = stored_vectors(adaptation(start.problem, JUDGE, start.seed), start.messenger)
    plan = start.plan(name, draws=SUPER_BATCH)
    count, train_on = plan.batch, contrastive(contrast(start.problem.config))
    bias = sigmoid_start(count)["bias"]

    def objective(encode: Encode, params: Any, batch: Mapping[str, Any], key: Any) -> jax.Array:
        fixed = jax.lax.stop_gradient(params)
        vectors = encode(fixed, {name: batch[name] for name in MODALITIES}, key)
        scales = fixed["head"]["logit_scale"], bias
        learner = ScoringModel(vectors["text"], vectors["image"], *scales)
        judge = ScoringModel(batch["reference_text"], batch["reference_image"], *scales)
        chosen = jax.lax.stop_gradient(choose(learner, judge, count, batch["text_id"]))
        return train_on(encode, params, jax.tree.map(lambda values: values[chosen], dict(batch)), key)

    return dataclasses.replace(
        plan,
        objective=objective,
        columns=reference.columns("reference"),
        seconds=reference.seconds,
        notes=(
            *reference.notes,
            f"trained on {count} of {count * SUPER_BATCH} pairs of each step; the reference is {JUDGE}",
        ),
    )


def _own_losses(model: ScoringModel) -> jax.Array:
    """float32[B]: the sigmoid loss of each pair's own combination."""
    cosines = jnp.sum(l2_normalize(model.queries) * l2_normalize(model.items), axis=1)
    return jax.nn.softplus(-(jnp.exp(model.log_scale) * cosines + model.bias))
