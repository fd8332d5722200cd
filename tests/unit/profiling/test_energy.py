"""Energy counters on made-up counter folders: sums, wrap-around, and never 0."""

from pathlib import Path

import pytest

from erel_jax.profiling import energy
from erel_jax.profiling.energy import Counter, EnergyMeter, nvml_counters, rapl_counters


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(energy, "nvml_counters", lambda: ([], "NVML: none here"))


def package(root: Path, name: str, label: str, microjoules: int, limit: int = 1_000_000_000) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(label + "\n")
    (folder / "energy_uj").write_text(str(microjoules))
    (folder / "max_energy_range_uj").write_text(str(limit))
    return folder


def test_packages_are_added_and_their_parts_are_not(tmp_path):
    first = package(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    core = package(tmp_path, "intel-rapl:0:0", "core", 1_000_000)
    second = package(tmp_path, "intel-rapl:1", "package-1", 0)
    again = package(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    with EnergyMeter(tmp_path) as meter:
        (first / "energy_uj").write_text("7500000")
        (core / "energy_uj").write_text("9000000")
        (second / "energy_uj").write_text("1000000")
        (again / "energy_uj").write_text("7500000")
    assert meter.energy.joules == pytest.approx(3.5)
    assert meter.energy.source == "RAPL package-0 + RAPL package-1"


def test_counter_that_wraps(tmp_path):
    folder = package(tmp_path, "intel-rapl:0", "package-0", 999_000_000)
    with EnergyMeter(tmp_path) as meter:
        (folder / "energy_uj").write_text("2000000")
    assert meter.energy.joules == pytest.approx(3.0)
    assert Counter("plain", lambda: 0.0).between(1.0, 4.0) == 3.0


def test_no_counter_is_unavailable_with_reasons(tmp_path):
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.energy.joules is None
    assert meter.energy.source == "unavailable: NVML: none here; RAPL: the system has no such counter"


def test_standing_counter_is_unavailable_not_zero(tmp_path):
    package(tmp_path, "intel-rapl:0", "package-0", 10)
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.energy.joules is None
    assert "did not move" in meter.energy.source


def test_garbled_counter_is_named(tmp_path):
    folder = package(tmp_path, "intel-rapl:0", "package-0", 10)
    (folder / "energy_uj").write_text("what")
    counters, reason = rapl_counters(tmp_path)
    assert counters == []
    assert "what" in reason


def test_counter_that_stops_answering(tmp_path):
    folder = package(tmp_path, "intel-rapl:0", "package-0", 10)
    with EnergyMeter(tmp_path) as meter:
        (folder / "energy_uj").unlink()
    assert meter.energy.joules is None
    assert "stopped answering" in meter.energy.source


def test_failing_work_still_raises(tmp_path):
    with pytest.raises(RuntimeError, match="work failed"), EnergyMeter(tmp_path):
        raise RuntimeError("work failed")


class FakeNvml:
    class NVMLError(Exception):
        pass

    def __init__(self, millijoules, fails=False):
        self.millijoules, self.fails = iter(millijoules), fails

    def nvmlInit(self):
        if self.fails:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return next(self.millijoules)


def test_nvml_millijoules_become_joules(monkeypatch):
    monkeypatch.setattr(energy.importlib, "import_module", lambda name: FakeNvml([0, 1500, 4000]))
    (counter,), reason = nvml_counters()
    assert (counter.name, reason) == ("NVML GPU 0", "")
    assert counter.between(counter.read(), counter.read()) == pytest.approx(2.5)


def test_nvml_reasons(monkeypatch):
    monkeypatch.setattr(energy.importlib, "import_module", lambda name: FakeNvml([], fails=True))
    assert nvml_counters() == ([], "NVML: Driver Not Loaded")

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(energy.importlib, "import_module", missing)
    assert nvml_counters() == ([], "NVML: nvidia-ml-py is not installed")
