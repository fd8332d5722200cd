"""The suite's own guarantees: devices, strictness, no network."""

import os
import socket
import urllib.request
import warnings

import jax
import jax.numpy as jnp
import pytest


def test_eight_cpu_devices():
    assert [device.platform for device in jax.devices()] == ["cpu"] * 8


def test_numerics_are_strict():
    with pytest.raises(ValueError, match="promotion"):
        _ = jnp.ones(2, jnp.int32) * jnp.ones(2, jnp.float32)
    with pytest.raises(ValueError, match="rank"):
        _ = jnp.ones((2, 3)) + jnp.ones(3)


def test_warnings_are_errors():
    with pytest.raises(UserWarning):
        warnings.warn("noticed", stacklevel=1)


@pytest.mark.parametrize("address", [("127.0.0.1", 9), ("192.0.2.1", 80)])
def test_connections_are_blocked(address):
    with socket.socket() as client, pytest.raises(RuntimeError, match="connection to"):
        client.connect(address)


def test_name_lookup_is_blocked():
    with pytest.raises(RuntimeError, match="connection to"):
        urllib.request.urlopen("http://example.org")


def test_hub_is_offline():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
