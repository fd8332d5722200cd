"""Checkpoints: bit for bit back, and every kind of damage or mix-up noticed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import tree
from erel_jax.errors import CheckpointError, ConfigError, CorruptArtifactError, NonFiniteError
from erel_jax.training import Checkpoints, adam, new_state

PRINT = {"method": "lora", "seed": 0, "rates": (0.1, 0.2)}


def host(state):
    bare = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, state)
    return tree.paths(jax.device_get(bare))


def restore(checkpoints, *wanted):
    found = checkpoints.restore(*wanted)
    assert found is not None
    return found


def make_state(value=1.5, width=3, optimizer=None, extra=None):
    trainable = {"a": {"kernel": jnp.full((width, 2), value), "none": None}, "half": jnp.ones((4,), jnp.bfloat16)}
    state = new_state(trainable | (extra or {}), optimizer or adam(0.1), jax.random.key(3))
    return dataclasses.replace(state, step=jnp.int32(5))


@pytest.fixture
def lines():
    return []


@pytest.fixture
def checkpoints(tmp_path, lines):
    return Checkpoints(tmp_path / "run", PRINT, report=lines.append)


def flip_byte(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x01
    file.write_bytes(bytes(data))


def test_state_comes_back_bit_for_bit(checkpoints):
    state = make_state(0.1)
    checkpoints.save(5, state, {"next": 5})
    found = restore(checkpoints, make_state(9.0))
    assert (found.step, found.stream_state) == (5, {"next": 5})
    assert jax.tree.structure(found.state) == jax.tree.structure(state)
    for name, value in host(state).items():
        restored = host(found.state)[name]
        assert restored.dtype == value.dtype
        np.testing.assert_array_equal(restored, value, err_msg=name)
    assert jax.random.uniform(found.state.key) == jax.random.uniform(state.key)


def test_empty_arrays_survive(checkpoints):
    state = make_state(extra={"empty": jnp.zeros((0, 4))})
    checkpoints.save(5, state)
    assert restore(checkpoints, state).state.trainable["empty"].shape == (0, 4)


def test_nothing_stored_is_none(checkpoints):
    assert checkpoints.latest() is None and checkpoints.restore(make_state()) is None


def test_newest_steps_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, PRINT, keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, make_state(float(step)))
    assert checkpoints.steps() == [3, 4]
    assert float(restore(checkpoints, make_state(), 3).state.trainable["a"]["kernel"][0, 0]) == 3.0
    with pytest.raises(CheckpointError, match=r"no step 2; it has \[3, 4\]"):
        restore(checkpoints, make_state(), 2)


def test_existing_step_needs_overwrite(checkpoints):
    checkpoints.save(5, make_state(1.0))
    with pytest.raises(ConfigError, match="exists already"):
        checkpoints.save(5, make_state(2.0))
    checkpoints.save(5, make_state(2.0), overwrite=True)
    assert float(restore(checkpoints, make_state()).state.trainable["a"]["kernel"][0, 0]) == 2.0


@pytest.mark.parametrize("where", ["parameter", "moment"])
def test_nonfinite_values_are_refused(checkpoints, where):
    state = make_state(float("nan")) if where == "parameter" else make_state()
    if where == "moment":
        moments = jax.tree.map(
            lambda x: jnp.full_like(x, jnp.inf) if jnp.issubdtype(x.dtype, jnp.floating) else x, state.optimizer_state
        )
        state = dataclasses.replace(state, optimizer_state=moments)
    with pytest.raises(NonFiniteError, match="a/kernel"):
        checkpoints.save(5, state)
    assert checkpoints.steps() == []
    checkpoints.save(5, state, save_nonfinite=True)
    assert checkpoints.steps() == [5]


def test_other_fingerprint_shows_both(tmp_path):
    Checkpoints(tmp_path, PRINT).save(5, make_state())
    with pytest.raises(ConfigError, match=r"method is 'lora' there and 'bitfit' here; rank is '\(absent\)' there"):
        restore(Checkpoints(tmp_path, PRINT | {"method": "bitfit", "rank": 8}), make_state())


def test_misfits_are_listed(checkpoints):
    checkpoints.save(5, make_state(extra={"old": jnp.ones(2)}))
    with pytest.raises(CheckpointError) as raised:
        restore(checkpoints, make_state(width=4, extra={"new": jnp.ones(2)}))
    message = str(raised.value)
    assert "missing arrays: " in message and "trainable/new" in message.split("extra arrays")[0]
    assert "trainable/old" in message.split("extra arrays: ")[1]
    assert "trainable/a/kernel stored float32[3, 2], expected float32[4, 2]" in message


def test_other_optimizer_is_a_misfit(checkpoints):
    checkpoints.save(5, make_state())
    with pytest.raises(CheckpointError, match="missing arrays: optimizer_state"):
        restore(checkpoints, make_state(optimizer=adam(0.1, warmup_steps=5)))


def stored_files(checkpoints, step):
    return sorted(path for path in checkpoints.path(step).rglob("*") if path.is_file())


def test_every_flipped_byte_is_noticed(checkpoints):
    checkpoints.save(5, make_state())
    for file in stored_files(checkpoints, 5):
        if file.stat().st_size == 0 or file.name == "manifest.json":
            continue
        whole = file.read_bytes()
        flip_byte(file)
        with pytest.raises(CorruptArtifactError, match=file.name):
            restore(checkpoints, make_state(), "latest")
        file.write_bytes(whole)
    assert restore(checkpoints, make_state(), "latest").step == 5


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
@pytest.mark.parametrize("target", ["largest", "checkpoint.json", "manifest.json"])
def test_auto_falls_back_to_the_step_before(checkpoints, lines, damage, target):
    for step in (1, 2):
        checkpoints.save(step, make_state(float(step)), {"next": step})
    files = stored_files(checkpoints, 2)
    if target == "largest":
        file = max((f for f in files if "arrays" in f.parts), key=lambda f: f.stat().st_size)
    else:
        file = checkpoints.path(2) / target
    if damage == "flip":
        data = bytearray(file.read_bytes())
        data[0] ^= 0x80
        file.write_bytes(bytes(data))
    elif damage == "delete":
        file.unlink()
    else:
        file.write_bytes(b"" if damage == "empty" else file.read_bytes()[: file.stat().st_size // 2])
    found = restore(checkpoints, make_state())
    assert (found.step, found.stream_state) == (1, {"next": 1})
    assert float(found.state.trainable["a"]["kernel"][0, 0]) == 1.0
    assert len(lines) == 1 and "step 2 is damaged, falling back to step 1" in lines[0] and file.name in lines[0]
    checkpoints.refuse_later(1)
    checkpoints.save(2, make_state(7.0))  # a damaged step may be made again
    assert float(restore(checkpoints, make_state()).state.trainable["a"]["kernel"][0, 0]) == 7.0


def test_all_damaged_is_an_error(checkpoints):
    checkpoints.save(5, make_state())
    (checkpoints.path(5) / "manifest.json").write_text("{")
    with pytest.raises(CorruptArtifactError):
        restore(checkpoints, make_state())


def test_arrays_that_orbax_cannot_read_are_corrupt(checkpoints, monkeypatch):
    """A manifest made over damaged metadata still gives our error class, not a bare JSON error."""
    checkpoints.save(5, make_state())
    metadata = checkpoints.path(5) / "arrays" / "_METADATA"
    metadata.write_bytes(b"\xff{")
    monkeypatch.setattr("erel_jax.training.checkpoint.verify_manifest", _trusting)
    with pytest.raises(CorruptArtifactError, match="cannot be read"):
        restore(checkpoints, make_state())


def _trusting(path, verify="auto", *, kind=None):
    from erel_jax.artifacts import read_manifest

    return read_manifest(path)


def test_older_schema_says_what_to_do(checkpoints):
    checkpoints.save(5, make_state())
    manifest = checkpoints.path(5) / "manifest.json"
    document = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(document | {"schema_version": 0}))
    with pytest.raises(CheckpointError, match="schema 0, this version of erel_jax reads 1"):
        restore(checkpoints, make_state())


def test_leftovers_are_removed_and_reported(tmp_path, lines):
    leftover = tmp_path / "step_00000003.tmp-99999999"
    leftover.mkdir()
    (leftover / "part").write_text("x")
    checkpoints = Checkpoints(tmp_path, PRINT, report=lines.append)
    assert not leftover.exists() and checkpoints.steps() == []
    assert len(lines) == 1 and leftover.name in lines[0]


def test_warnings_are_printed(tmp_path, capsys):
    (tmp_path / "step_00000003.tmp-99999999").mkdir()
    Checkpoints(tmp_path, PRINT)
    assert capsys.readouterr().err.startswith("warning: ")


def test_full_disk_keeps_the_older_step(checkpoints, monkeypatch):
    checkpoints.save(1, make_state(1.0))

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("erel_jax.artifacts.write_text_atomic", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, make_state(2.0))
    assert checkpoints.steps() == [1] and restore(checkpoints, make_state()).step == 1
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step_00000001"]


def test_bad_arguments_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="keep=0"):
        Checkpoints(tmp_path, PRINT, keep=0)
    with pytest.raises(ConfigError, match="JSON cannot hold"):
        Checkpoints(tmp_path, {"x": object()})
    with pytest.raises(ConfigError, match="is a file"):
        (tmp_path / "file").write_text("")
        Checkpoints(tmp_path / "file", PRINT)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ConfigError, match="one process"):
        Checkpoints(tmp_path, PRINT)


def test_training_into_later_steps_is_refused(checkpoints):
    checkpoints.save(5, make_state())
    checkpoints.refuse_later(5)
    with pytest.raises(ConfigError, match=r"holds steps \[5\], training would start at 0"):
        checkpoints.refuse_later(0)
