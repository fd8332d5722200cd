"""What a record says about its place, and what it must not say."""

import getpass
import json
import socket
from pathlib import Path

import jax

from erel_jax.profiling import environment
from erel_jax.profiling.environment import describe_environment, environment_reasons


def test_versions_and_device():
    described = describe_environment("bfloat16")
    assert described["jax"] == jax.__version__
    assert described["precision"] == "bfloat16"
    assert described["device_count"] == jax.device_count() == 8
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 1e8
    json.dumps(described)


def test_no_folder_and_no_host_name():
    text = json.dumps(describe_environment())
    assert str(Path.home()) + "/" not in text
    assert str(Path(__file__).resolve().parents[3]) not in text
    assert socket.gethostname() not in text
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in text


def test_outside_a_checkout_the_commit_is_none_with_a_reason(monkeypatch, tmp_path):
    assert environment._source_commit(tmp_path) == (None, None)
    monkeypatch.setattr(environment, "_source_commit", lambda root: (None, None))
    reasons = environment_reasons(describe_environment("float32"))
    assert reasons["environment.commit"] == "not run from a git checkout"
    assert "environment.jax" not in reasons


def test_commit_of_a_checkout(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").touch()
    answers = {"rev-parse": "a" * 40, "status": " M file.py"}
    monkeypatch.setattr(environment, "_git", lambda root, verb, *rest: answers[verb])
    assert environment._source_commit(tmp_path) == ("a" * 40, True)
    answers["status"] = ""
    assert environment._source_commit(tmp_path) == ("a" * 40, False)
