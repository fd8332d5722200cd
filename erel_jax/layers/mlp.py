"""The feed-forward networks of a transformer block: two layers, or two and a gate, which may be one fused kernel."""

from typing import Any

import jax
import jax.numpy as jnp

from erel_jax.layers.activation import activation
from erel_jax.layers.dense import dense
from erel_jax.layers.precision import Precision
from erel_jax.module import Initializer, ParamSpec, normal, zeros


def mlp_spec(width: int, hidden: int, *, kernel_init: Initializer | None = None) -> dict[str, Any]:
    """`up` [D, F] and `down` [F, D] with biases."""
    kernel_init = kernel_init or normal(0.02)
    return {
        "up": {
            "kernel": ParamSpec((width, hidden), ("embed", "mlp"), kernel_init),
            "bias": ParamSpec((hidden,), ("mlp",), zeros),
        },
        "down": {
            "kernel": ParamSpec((hidden, width), ("mlp", "embed"), kernel_init),
            "bias": ParamSpec((width,), ("embed",), zeros),
        },
    }


def mlp(params: dict[str, Any], x: jax.Array, *, activation_name: str, precision: Precision) -> jax.Array:
    """`φ(x W_up + b) W_down + b` for float[..., D]; the activation runs in float32."""
    hidden = activation(activation_name, precision)(dense(x, params["up"]["kernel"], params["up"]["bias"], precision))
    return dense(hidden, params["down"]["kernel"], params["down"]["bias"], precision)


def gated_mlp_spec(width: int, hidden: int, *, kernel_init: Initializer | None = None) -> dict[str, Any]:
    """`gate` and `up` [D, F] and `down` [F, D], without biases."""
    kernel_init = kernel_init or normal(0.02)

    def kernel(shape: tuple[int, int], axes: tuple[str, str]) -> dict[str, ParamSpec]:
        return {"kernel": ParamSpec(shape, axes, kernel_init)}

    return {
        "gate": kernel((width, hidden), ("embed", "mlp")),
        "up": kernel((width, hidden), ("embed", "mlp")),
        "down": kernel((hidden, width), ("mlp", "embed")),
    }


def gated_mlp(params: dict[str, Any], x: jax.Array, *, activation_name: str, precision: Precision) -> jax.Array:
    """`(φ(x W_gate) · x W_up) W_down` for float[..., D] (Shazeer, 2020); the activation runs in float32."""
    gate = activation(activation_name, precision)(
        dense(x, params["gate"]["kernel"], params["gate"].get("bias"), precision)
    )
    up = dense(x, params["up"]["kernel"], params["up"].get("bias"), precision)
    return dense(gate * up, params["down"]["kernel"], params["down"].get("bias"), precision)


def fused_gated_mlp_spec(width: int, hidden: int, *, bias: bool = False) -> dict[str, Any]:
    """`gate_up` [D, 2F], the gate's columns first, and `down` [F, D]."""

    def linear(inputs: int, outputs: int, axes: tuple[str, str]) -> dict[str, ParamSpec]:
        kernel = {"kernel": ParamSpec((inputs, outputs), axes, normal(0.02))}
        return {**kernel, "bias": ParamSpec((outputs,), axes[1:], zeros)} if bias else kernel

    return {
        "gate_up": linear(width, 2 * hidden, ("embed", "mlp")),
        "down": linear(hidden, width, ("mlp", "embed")),
    }


def fused_gated_mlp(params: dict[str, Any], x: jax.Array, *, activation_name: str, precision: Precision) -> jax.Array:
    """`gated_mlp` whose gate and up kernels are one: float[..., D] to float[..., D]."""
    fused, down = params["gate_up"], params["down"]
    gate, up = jnp.split(dense(x, fused["kernel"], fused.get("bias"), precision), 2, axis=-1)
    return dense(activation(activation_name, precision)(gate) * up, down["kernel"], down.get("bias"), precision)
