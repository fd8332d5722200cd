"""Energy of a piece of work, from counters that exist or not at all.

NVIDIA GPUs count millijoules since the driver was loaded (NVML, Volta and later); Intel and AMD processors count
microjoules per package in `/sys/class/powercap` (RAPL, often readable by root alone). Where neither can be read the
result is None with a reason. It is never 0, and it is never estimated from a nominal power.
"""

import contextlib
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

POWERCAP = Path("/sys/class/powercap")


@dataclasses.dataclass(frozen=True)
class Energy:
    """Energy of what ran inside an `EnergyMeter`.

    Attributes:
        joules: the energy, or None where no counter can be read.
        source: the counters that were added up; the reason when `joules` is None.
    """

    joules: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class Counter:
    """One cumulative energy counter.

    Attributes:
        name: as a report shows it.
        read: joules now.
        wraps_at: joules after which it starts again from 0, or None.
    """

    name: str
    read: Callable[[], float]
    wraps_at: float | None = None

    def between(self, before: float, after: float) -> float:
        """Joules from one reading to the next, allowing for one wrap-around."""
        used = after - before
        return used + self.wraps_at if used < 0 and self.wraps_at is not None else used


class EnergyMeter:
    """Adds up all counters of the machine over a `with` block.

    The counters are the machine's, not the process's: other work that runs meanwhile is counted too. A block shorter
    than a counter's period (RAPL 1 ms, NVML about 100 ms) measures nothing and is reported as unavailable.

    Example:
        with EnergyMeter() as meter:
            train()
        meter.energy  # Energy(joules=…, source="NVML GPU 0") or Energy(None, "unavailable: …")
    """

    def __init__(self, powercap: Path = POWERCAP):
        gpu, gpu_reason = nvml_counters()
        cpu, cpu_reason = rapl_counters(powercap)
        self._counters = [*gpu, *cpu]
        self._reason = "; ".join(reason for reason in (gpu_reason, cpu_reason) if reason)
        self._before: list[float] = []
        self.energy = Energy(None, "unavailable: the measured block has not ended")

    def __enter__(self) -> "EnergyMeter":
        try:
            self._before = [counter.read() for counter in self._counters]
        except Exception as error:
            self._counters, self._reason = [], f"a counter stopped answering: {error}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.energy = self._used()

    def _used(self) -> Energy:
        if not self._counters:
            return Energy(None, f"unavailable: {self._reason}")
        try:
            after = [counter.read() for counter in self._counters]
        except Exception as error:
            return Energy(None, f"unavailable: a counter stopped answering: {error}")
        readings = zip(self._counters, self._before, after, strict=True)
        joules = sum(counter.between(first, last) for counter, first, last in readings)
        if joules <= 0:
            return Energy(None, "unavailable: the counters did not move; the work was shorter than their period")
        return Energy(joules, " + ".join(counter.name for counter in self._counters))


def nvml_counters() -> tuple[list[Counter], str]:
    """Energy counters of all NVIDIA GPUs that have one, and the reason when there is none."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return [], "NVML: nvidia-ml-py is not installed"
    counters = []
    try:
        nvml.nvmlInit()
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            counters.append(Counter(f"NVML GPU {index}", _millijoule_reader(nvml, handle)))
    except nvml.NVMLError as error:
        return [], f"NVML: {error}"
    return counters, "" if counters else "NVML: no GPU"


def rapl_counters(powercap: Path = POWERCAP) -> tuple[list[Counter], str]:
    """Counters of all processor packages, and the reason when there is none.

    Only top-level packages are read: cores and uncore inside them are parts of the same energy.
    """
    folders = sorted(folder for folder in powercap.glob("*rapl*:*") if folder.name.count(":") == 1)
    packages = {}
    for folder in folders:
        with contextlib.suppress(OSError):
            name = (folder / "name").read_text().strip()
            packages.setdefault(name, folder)  # intel-rapl and intel-rapl-mmio show the same package twice
    packages = {name: folder for name, folder in packages.items() if name.startswith("package")}
    if not packages:
        return [], "RAPL: the system has no such counter"
    counters = []
    for name, folder in packages.items():
        try:
            int((folder / "energy_uj").read_text())
            wraps_at = int((folder / "max_energy_range_uj").read_text()) / 1e6
        except (OSError, ValueError) as error:
            return [], f"RAPL: {getattr(error, 'strerror', None) or error}"
        counters.append(Counter(f"RAPL {name}", _microjoule_reader(folder / "energy_uj"), wraps_at))
    return counters, ""


def _millijoule_reader(nvml, handle) -> Callable[[], float]:
    return lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3


def _microjoule_reader(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) / 1e6
