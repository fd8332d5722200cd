"""Ways to train a dual encoder that are more than an adaptation method: another loss, other pairs, a teacher.

A `Recipe` turns the problem of a run into a `Plan`; whatever it needs before, such as a teacher's vectors or the pairs
that are worth training on, it makes (or finds stored) while planning, and says how long that took.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from erel_jax.benchmark.messages import Messenger
from erel_jax.benchmark.retrieval_problem import Problem
from erel_jax.benchmark.retrieval_training import Plan, adaptation

BASE = "full"
"""The adaptation method that recipes train with."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """What a recipe starts from: the run's problem, its seed, and whom to tell of progress."""

    problem: Problem
    seed: int
    messenger: Messenger

    def plan(self, name: str, method: str = BASE, **changes: Any) -> Plan:
        """The plan of an adaptation method under the recipe's name, with changes."""
        return dataclasses.replace(adaptation(self.problem, method, self.seed), name=name, **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train: its name for `--methods`, a line for reports, and how it plans."""

    name: str
    summary: str
    plan: Callable[[str, Start], Plan]
