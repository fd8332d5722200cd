"""How vectors are stored in fewer bytes."""

from erel_jax.retrieval.codes.binary import Binary
from erel_jax.retrieval.codes.code import Code
from erel_jax.retrieval.codes.eden import Eden, eden, normal_levels
from erel_jax.retrieval.codes.floats import Float32
from erel_jax.retrieval.codes.int8 import Int8PerDimension, Int8PerVector, int8_per_dimension
from erel_jax.retrieval.codes.inverted import Inverted, inverted, margin_for
from erel_jax.retrieval.codes.product import Product, product
from erel_jax.retrieval.codes.reduced import Reduced, principal, rotated, truncated
from erel_jax.retrieval.codes.residual import Residual, residual
from erel_jax.retrieval.codes.rotation import random_rotation

__all__ = [
    "Binary",
    "Code",
    "Eden",
    "Float32",
    "Int8PerDimension",
    "Int8PerVector",
    "Inverted",
    "Product",
    "Reduced",
    "Residual",
    "eden",
    "int8_per_dimension",
    "inverted",
    "margin_for",
    "normal_levels",
    "principal",
    "product",
    "random_rotation",
    "residual",
    "rotated",
    "truncated",
]
