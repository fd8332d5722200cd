"""Where a peak comes from, and that the process peak can be reset."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax.profiling import memory
from erel_jax.profiling.memory import PeakMeter, compiled_bytes, peak_memory, reset_process_peak
from erel_jax.sharding import compile_step


class FakeDevice:
    def __init__(self, stats):
        self._stats = stats

    def memory_stats(self):
        return self._stats


def test_device_peak_comes_first():
    peak = peak_memory(FakeDevice({"peak_bytes_in_use": 123, "bytes_in_use": 7}))
    assert peak.bytes == 123
    assert peak.source.startswith("device memory_stats")


def test_cpu_falls_back_to_the_process_and_says_so():
    peak = peak_memory(FakeDevice(None))
    assert peak.bytes is not None and peak.bytes > 20_000_000
    assert peak.source == "process peak RSS, since process start, data loading included"


def test_reset_forgets_what_was_freed():
    block = np.ones(30_000_000)  # 240 MB
    del block
    if not reset_process_peak():
        pytest.skip("the system does not allow resetting the high-water mark")
    meter = PeakMeter(FakeDevice(None))
    low = meter.read()
    assert low.source == "process peak RSS, since reset"
    block = np.ones(30_000_000)
    high = meter.read()
    assert low.bytes is not None and high.bytes is not None
    assert high.bytes - low.bytes > 200_000_000
    del block


def test_a_reset_that_is_not_allowed_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    assert not reset_process_peak()
    assert "data loading included" in PeakMeter(FakeDevice(None)).read().source


def test_nothing_to_read_is_unavailable_not_zero(monkeypatch):
    monkeypatch.setattr(memory, "_process_peak", lambda: None)
    peak = peak_memory(FakeDevice({}))
    assert peak.bytes is None
    assert peak.source.startswith("unavailable: ")


def test_compiled_bytes_of_a_step():
    step = compile_step(lambda x: jnp.sin(x) @ x)
    assert compiled_bytes(step).bytes is None
    assert "not compiled" in compiled_bytes(step).source
    step.compile(jax.ShapeDtypeStruct((256, 256), jnp.float32))
    size = 256 * 256 * 4
    planned = compiled_bytes(step)
    assert planned.bytes is not None and 3 * size <= planned.bytes <= 5 * size  # argument, result, sin(x)
    assert compiled_bytes(step.compiled) == planned
