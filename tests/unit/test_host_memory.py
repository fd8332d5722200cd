"""Freed memory stays in the process once it was asked for; run apart, because the setting is the process's."""

import subprocess
import sys

import pytest

from erel_jax import host_memory

FAULTS = """
import ctypes, resource, sys
from erel_jax.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 100 * 2**20
def touch():
    block = c.malloc(size)
    ctypes.memset(block, 1, size)
    c.free(block)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_large_blocks_are_faulted_in_once_when_kept():
    faults = {}
    for mode in ("kept", "returned"):
        run = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        faults[mode] = int(run.stdout)
    # Three touches of 100 MiB, in pages of 4 KiB or of 2 MiB.
    assert faults["kept"] < 20 < 3 * 50 <= faults["returned"]


def test_says_so_where_there_is_no_mallopt(monkeypatch):
    monkeypatch.setattr(host_memory.sys, "platform", "darwin")
    assert host_memory.keep_freed_memory() is False


def test_says_so_where_mallopt_refuses(monkeypatch):
    class Library:
        @staticmethod
        def mallopt(option, value):
            return 0

    monkeypatch.setattr(host_memory.sys, "platform", "linux")
    monkeypatch.setattr(host_memory.ctypes, "CDLL", lambda name: Library)
    assert host_memory.keep_freed_memory() is False
