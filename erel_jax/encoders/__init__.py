"""Foundation-model encoders as pure functions."""

from erel_jax.encoders.encoded import Encoded, Encoder

__all__ = ["Encoded", "Encoder"]
