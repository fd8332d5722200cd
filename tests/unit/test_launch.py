"""Processes find each other through the environment and compute together."""

import socket
import subprocess
import sys

import pytest

from erel_jax import launch
from erel_jax.errors import ConfigError


def test_nothing_set_is_one_process():
    assert launch.process_options({}) is None


def test_auto_leaves_it_to_jax():
    assert launch.process_options({"EREL_COORDINATOR": "auto"}) == {}


def test_explicit_options():
    environment = {"EREL_COORDINATOR": "node0:1234", "EREL_PROCESSES": "4", "EREL_PROCESS": "3"}
    expected = {"coordinator_address": "node0:1234", "num_processes": 4, "process_id": 3}
    assert launch.process_options(environment) == expected


@pytest.mark.parametrize(
    "environment",
    [
        {"EREL_PROCESSES": "2"},
        {"EREL_COORDINATOR": "node0:1"},
        {"EREL_COORDINATOR": "node0", "EREL_PROCESSES": "2", "EREL_PROCESS": "0"},
        {"EREL_COORDINATOR": "node0:1", "EREL_PROCESSES": "two", "EREL_PROCESS": "0"},
        {"EREL_COORDINATOR": "node0:1", "EREL_PROCESSES": "2", "EREL_PROCESS": "2"},
        {"EREL_COORDINATOR": "node0:1", "EREL_PROCESSES": "2", "EREL_PROCESS": "-1"},
    ],
)
def test_incomplete_options_are_refused(environment):
    with pytest.raises(ConfigError, match="expected EREL_COORDINATOR=host:port"):
        launch.process_options(environment)


def test_nothing_to_run_is_refused():
    for words in ([], ["-m"]):
        with pytest.raises(ConfigError, match="Nothing to run"):
            launch.main(words)


def test_single_process_check_on_eight_devices():
    assert launch.check_processes() == "process 0 of 1: 8 of 8 cpu devices, sum over all 36"


def test_script_sees_its_own_arguments(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["launch"])
    (tmp_path / "script.py").write_text("import sys\nprint(__name__, sys.argv[1:])\n")
    launch.main([str(tmp_path / "script.py"), "--epochs", "2"])
    assert capsys.readouterr().out == "__main__ ['--epochs', '2']\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_add_up(plain_environment):
    address = f"127.0.0.1:{free_port()}"
    flags = "--xla_force_host_platform_device_count=2"
    common = plain_environment | {"EREL_COORDINATOR": address, "EREL_PROCESSES": "2", "XLA_FLAGS": flags}
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "erel_jax.launch", "--check"],
            env=common | {"EREL_PROCESS": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    lines = [output.splitlines()[-1] for output, _ in outputs]
    assert [line.split(",")[0] for line in lines] == [
        "process 0 of 2: 2 of 4 cpu devices",
        "process 1 of 2: 2 of 4 cpu devices",
    ]
    assert lines[0].split("sum")[1] == lines[1].split("sum")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing.py"], "nothing.py: no such script"),
        (["-m", "no_such_module"], "no module 'no_such_module'"),
        (["-m", "erel_jax.no_such_part"], "no module 'erel_jax.no_such_part'"),
        (["-m", "erel_jax.cli.below"], "no module 'erel_jax.cli.below'"),
        (["--chek"], "expected --check"),
        (["--check", "more"], "expected --check"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(words, says):
    with pytest.raises(ConfigError, match=says):
        launch.main(words)


def test_help_is_printed_and_runs_nothing(capsys):
    launch.main(["--help"])
    assert "EREL_COORDINATOR=host:port" in capsys.readouterr().out
