"""Ways to train a dual encoder that `--methods` knows beside the adaptation methods, for retrieval."""

from erel_jax.benchmark.recipes.locked import lit_cached_recipe
from erel_jax.benchmark.recipes.objectives import matryoshka_recipe, sigmoid_recipe
from erel_jax.benchmark.recipes.pairs import jest_recipe, learnability_recipe, semdedup_recipe, small_loss_recipe
from erel_jax.benchmark.recipes.recipe import Recipe, Start
from erel_jax.benchmark.recipes.students import distilled_recipe, student_recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="sigmoid", summary="full, with the sigmoid loss", plan=sigmoid_recipe),
        Recipe(name="matryoshka", summary="full, with embeddings that may be cut short", plan=matryoshka_recipe),
        Recipe(name="lit_cached", summary="the text tower trains against stored pictures", plan=lit_cached_recipe),
        Recipe(name="semdedup", summary="full, without near-duplicate pairs", plan=semdedup_recipe),
        Recipe(name="small_loss", summary="full, without pairs that look mismatched", plan=small_loss_recipe),
        Recipe(name="learnability", summary="full, on the more learnable half of each batch", plan=learnability_recipe),
        Recipe(name="jest", summary="full, on the jointly more learnable half of each batch", plan=jest_recipe),
        Recipe(name="student", summary="full, with towers of a quarter of the FLOPs", plan=student_recipe),
        Recipe(name="distilled", summary="the student, taught by what full learned", plan=distilled_recipe),
    )
}
"""All recipes by name. They train what `full` trains, except where the summary says otherwise."""

__all__ = ["RECIPES", "Recipe", "Start"]
