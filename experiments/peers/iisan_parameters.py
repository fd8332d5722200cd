"""Brings the parameters of the PyTorch statement into our tree, so that both sides compute the same loss."""

from typing import Any

import jax.numpy as jnp


def from_torch(peer: Any, spec: Any) -> dict[str, Any]:
    """Parameters `{"items", "users"}` of `iisan` and `sasrec` from a `CachedIisan`.

    Args:
        peer: the PyTorch model.
        spec: our spec; the result has its structure.
    """
    items = peer.items
    towers = {"image": items.image, "text": items.text, "inter": items.inter}
    sides = {}
    for index, (name, blocks) in enumerate(towers.items()):
        sides[name] = {
            "blocks": {str(k): {"down": _linear(b.down), "up": _linear(b.up)} for k, b in enumerate(blocks)},
            "gates": _array(items.gates[index]),
        }
    heads = {
        name: {"hidden": _linear(items.first[index]), "output": _linear(items.second[index])}
        for index, name in enumerate(towers)
    }
    users = peer.users
    params = {
        "items": {
            "intra": {name: sides[name] for name in ("image", "text")},
            "inter": sides["inter"],
            "heads": heads,
            "fusion": _linear(items.fusion),
        },
        "users": {
            "position": {"table": _array(users.position)},
            "input_norm": _norm(users.norm),
            "blocks": {str(k): _block(b) for k, b in enumerate(users.blocks)},
        },
    }
    return {name: params[name] for name in spec}


def _block(block: Any) -> dict[str, Any]:
    attention = {name: _linear(getattr(block, name)) for name in ("query", "key", "value", "output")}
    return {
        "attention": attention,
        "attention_norm": _norm(block.norm1),
        "mlp": {"up": _linear(block.up), "down": _linear(block.down)},
        "mlp_norm": _norm(block.norm2),
    }


def _linear(layer: Any) -> dict[str, Any]:
    kernel = {"kernel": _array(layer.weight.T)}
    return kernel if layer.bias is None else {**kernel, "bias": _array(layer.bias)}


def _norm(layer: Any) -> dict[str, Any]:
    return {"scale": _array(layer.weight), "bias": _array(layer.bias)}


def _array(tensor: Any) -> Any:
    return jnp.asarray(tensor.detach().numpy().copy())
