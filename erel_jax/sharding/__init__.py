"""Meshes, placement rules and the one door to the compiler."""

from erel_jax.sharding.mesh import AXES, make_mesh
from erel_jax.sharding.pmap import pmap_gradient_step, replicate, unreplicate
from erel_jax.sharding.rules import (
    RULES,
    batch_sharding,
    fitted_spec,
    named_rules,
    partition_spec,
    replicated_sharding,
    sharding_report,
    shardings,
)
from erel_jax.sharding.step import Step, compile_step

__all__ = [
    "AXES",
    "RULES",
    "Step",
    "batch_sharding",
    "compile_step",
    "fitted_spec",
    "make_mesh",
    "named_rules",
    "partition_spec",
    "pmap_gradient_step",
    "replicate",
    "replicated_sharding",
    "sharding_report",
    "shardings",
    "unreplicate",
]
