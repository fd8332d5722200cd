"""Peak memory, with the name of what was measured beside every number.

Three sources, never mixed: what the compiler planned for one program (`compiled_bytes`), what the device's allocator
saw (GPU and TPU), and the peak resident set of the process (CPU), which also holds Python, the libraries and the data.
A device's peak cannot be reset, so each configuration is measured in a fresh process; the process peak can be, on
Linux.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jax

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclasses.dataclass(frozen=True)
class Peak:
    """A peak of memory and where it comes from.

    Attributes:
        bytes: the peak, or None where nothing can be read.
        source: what was measured, as a report shows it; the reason when `bytes` is None.
    """

    bytes: int | None
    source: str


def compiled_bytes(program: Any) -> Peak:
    """What the compiler planned for one program: arguments + results + temporaries - aliases, per device.

    Args:
        program: a `sharding.Step` that has been compiled, or what `jax.jit(f).lower(…).compile()` returns.
    """
    program = getattr(program, "compiled", program)
    analysis = program.memory_analysis() if program is not None else None
    if analysis is None:
        reason = "the step was not compiled yet" if program is None else "the backend reports no memory analysis"
        return Peak(None, f"unavailable: {reason}")
    total = (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        + analysis.temp_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    return Peak(int(total), "compiled program, per device")


class PeakMeter:
    """The peak of memory from here on.

    Made, it resets the process's high-water mark where the system allows that, so that what was loaded and freed
    before is not counted; what is still held is. `read` gives the peak so far.

    >>> PeakMeter().read().bytes > 0
    True
    """

    def __init__(self, device: Any = None):
        self._device = jax.local_devices()[0] if device is None else device
        self._reset = reset_process_peak()

    def read(self) -> Peak:
        """The peak since the meter was made (device peaks: since the process began)."""
        return peak_memory(self._device, since_reset=self._reset)


def peak_memory(device: Any = None, *, since_reset: bool = False) -> Peak:
    """The peak of a device's memory, or of this process where the device does not report one.

    Args:
        device: the device asked, by default the first local one.
        since_reset: the process peak was reset by `reset_process_peak`; said in the label.
    """
    device = jax.local_devices()[0] if device is None else device
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    if peak is not None:
        return Peak(int(peak), "device memory_stats, peak since process start")
    resident = _process_peak()
    if resident is None:
        return Peak(None, "unavailable: neither the device nor the system reports a peak")
    since = "since reset" if since_reset else "since process start, data loading included"
    return Peak(resident, f"process peak RSS, {since}")


def reset_process_peak() -> bool:
    """Sets the process's resident high-water mark back to what is resident now; False where that is not allowed."""
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _process_peak() -> int | None:
    # getrusage keeps the peak of the whole life of the process (and a parent's, after a fork); VmHWM follows a reset.
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
