"""The doctor finds what is wrong, and only what is broken fails."""

import io
import json
import sys

import pytest
from rich.console import Console

from erel_jax import doctor
from erel_jax.doctor import devices, finding, surroundings, versions


def named(findings, name):
    return next(item for item in findings if item.name == name)


@pytest.fixture(scope="module")
def healthy():
    return doctor.diagnose(measure=False)


def test_this_environment_is_not_broken(healthy):
    assert [item for item in healthy.findings if item.state == "broken"] == []
    assert healthy.exit_code == 0
    topics = list(dict.fromkeys(item.topic for item in healthy.findings))
    assert topics == ["versions", "device", "memory", "folders", "compile cache", "network", "energy"]


def test_device_line_says_what_jax_uses(healthy):
    assert named(healthy.findings, "backend").value == "8 x cpu (cpu)"


def test_json_form_round_trips(healthy):
    assert json.loads(json.dumps(healthy.as_dict()))["broken"] is False


def test_printed_table_escapes_and_ends_with_next_step():
    text = io.StringIO()
    bad = doctor.Finding(topic="t", name="n", value="[bold]x[/]", state="broken", advice="do [this]")
    doctor.print_diagnosis(doctor.Diagnosis(findings=(bad,)), Console(file=text, width=100))
    assert "[bold]x[/]" in text.getvalue()
    assert "do [this]" in text.getvalue()
    assert "1 broken." in text.getvalue()
    text = io.StringIO()
    doctor.print_diagnosis(doctor.Diagnosis(findings=()), Console(file=text, width=100))
    assert "Next: erel bench" in text.getvalue()


def test_missing_package_is_broken_with_the_remedy(monkeypatch):
    monkeypatch.setattr(versions, "TESTED_BOTH", {"no-such-package": "1.0"})
    item = named(versions.look_at_versions(), "no-such-package")
    assert (item.state, item.value) == ("broken", "not installed")
    assert "no-such-package==1.0" in item.advice


def test_version_outside_the_declared_range_is_broken(monkeypatch):
    from packaging.specifiers import SpecifierSet

    monkeypatch.setattr(versions, "_declared_ranges", lambda: {"chex": SpecifierSet("<0.0.1")})
    item = named(versions.look_at_versions(), "chex")
    assert item.state == "broken"
    assert "<0.0.1" in item.advice


def test_package_that_does_not_import_is_broken(monkeypatch):
    monkeypatch.setitem(versions.IMPORTED_BY, "chex", "erel_jax.no_such_module")
    item = named(versions.look_at_versions(), "chex")
    assert item.state == "broken"
    assert "ModuleNotFoundError" in item.value


def test_untested_version_is_only_a_note(monkeypatch):
    monkeypatch.setitem(versions.TESTED_BOTH, "chex", "0.0.0")
    item = named(versions.look_at_versions(), "chex")
    assert item.state == "note"
    assert "tested: 0.0.0" in item.value


def test_unreadable_backend_is_broken(monkeypatch):
    import jax

    def fail():
        raise RuntimeError("Unable to initialize backend 'cuda'")

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    (item,) = devices.look_at_devices()
    assert item.state == "broken"
    assert "JAX_PLATFORMS='cuda'" in item.advice


def test_driver_without_cuda_jax_is_a_warning(monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(devices.metadata, "distributions", list)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    assert devices.why_no_accelerator() == ("NVIDIA driver present, JAX is CPU-only", "pip install -e '.[gpu]'")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    reason, advice = devices.why_no_accelerator()
    assert "JAX_PLATFORMS=cpu excludes it" in reason
    assert advice.startswith("Unset JAX_PLATFORMS")
    assert named(devices.look_at_devices(), "accelerator").state == "warning"


def test_memory_settings_are_shown(monkeypatch):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    assert named(devices.look_at_memory(), "preallocation").value == "XLA_PYTHON_CLIENT_MEM_FRACTION=.5"


def test_cache_size_and_unusable_cache(monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "x").write_bytes(bytes(2500))
    monkeypatch.setenv("EREL_CACHE", str(cache))
    assert named(surroundings.look_at_folders(), "cache").value == f"{cache} (2.5 kB used)"
    monkeypatch.setenv("EREL_CACHE", str(cache / "x"))
    assert named(surroundings.look_at_folders(), "cache").state == "broken"


def test_little_disk_is_a_warning(monkeypatch):
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda folder: usage)
    item = named(surroundings.look_at_folders(), "disk of the cache")
    assert (item.state, item.value) == ("warning", "1.0 MB free")


def test_orphans_in_a_capped_compile_cache_are_a_warning(monkeypatch, tmp_path):
    import jax

    for name in ("a-cache", "a-atime", "b-cache"):
        (tmp_path / name).write_bytes(b"12345")
    options = {"jax_compilation_cache_dir": str(tmp_path), "jax_compilation_cache_max_size": 1000}
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        (item,) = surroundings.look_at_compile_cache()
        assert item.value == f"{tmp_path}: 2 programs, 15 B, size cap 1.0 kB"
        assert item.state == "warning"
        assert item.advice.startswith("1 entries lack")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_offline_flags(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE")
    found = {item.name: item.value for item in surroundings.look_at_network()}
    assert found["HF_HUB_OFFLINE"].startswith("1 (no downloads)")
    assert found["TRANSFORMERS_OFFLINE"].startswith("not set")


@pytest.mark.parametrize("value", ["0", "false", "no", ""])
def test_a_flag_that_says_no_is_not_offline(monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    found = {item.name: item.value for item in surroundings.look_at_network()}
    assert found["HF_HUB_OFFLINE"].endswith("(hub ids are downloaded)")


def test_tokens_are_never_shown(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    assert "hf_secret_value" not in json.dumps(doctor.diagnose(measure=False).as_dict())


def test_absent_energy_counters_are_unavailable_not_zero(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    item = named(surroundings.look_at_energy(), "NVML (GPU)")
    assert item.value == "unavailable: NVML: nvidia-ml-py is not installed"


def test_a_look_that_fails_is_reported(monkeypatch):
    from erel_jax.doctor import diagnosis

    def fail():
        raise OSError("surprise")

    monkeypatch.setattr(diagnosis, "look_at_network", fail)
    found = doctor.diagnose(measure=False)
    assert found.exit_code == 1
    assert named(found.findings, "check failed").value == "OSError: surprise"


def test_measured_products_have_plausible_rates():
    rates = doctor.measure_products(0.05)
    assert set(rates) == {"float32", "bfloat16", "int8"}
    assert all(1e8 < rate < 1e17 for rate in rates.values())


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e12, "2.5 TB")])
def test_readable_bytes(count, text):
    assert finding.readable_bytes(count) == text
