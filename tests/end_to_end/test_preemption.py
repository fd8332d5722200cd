"""A run that is asked to stop saves, says so, leaves no process behind, and goes on with the same command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from erel_jax.benchmark.record import read_records

# Whoever starts the tests in the background makes them, and all they start, deaf to SIGINT; a person's shell does not.
HEED_CTRL_C = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.fixture
def start(plain_environment, tmp_path):
    """Starts `erel` in a process group of its own, as a shell does; its output goes to a file."""
    running = []

    def begin(*arguments: object) -> subprocess.Popen[str]:
        with open(tmp_path / "output.txt", "w") as stream:
            process = subprocess.Popen(
                [sys.executable, "-c", HEED_CTRL_C, "-m", "erel_jax.cli", *map(str, arguments)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=plain_environment,
                cwd=tmp_path,
                text=True,
                start_new_session=True,
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()


def children(process: subprocess.Popen[str]) -> list[int]:
    """Ids of the processes that a process has started."""
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process still does something; one that only waits to be reaped does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def training(output: Path) -> bool:
    return "linear_probe-seed0: training" in output.read_text()


@pytest.mark.slow  # a minute; test_signals.py asks the same of one process in seconds
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_sigterm_saves_and_the_same_command_goes_on(start, erel, pairs, encoders, tmp_path) -> None:
    towers = ("--text-encoder", encoders["text"], "--image-encoder", encoders["image"])
    epochs = ("--methods", "linear_probe", "--batch-size", "8", "--epochs", "9000", "--out", "run")
    command = ("bench", "--data", pairs, *towers, *epochs)
    output = tmp_path / "output.txt"

    # Before training there is nothing to save, but the code and the words are the same.
    process = start(*command)
    wait_for(lambda: process.poll() is not None or "retrieval on" in output.read_text())
    assert process.poll() is None, output.read_text()
    wait_for(lambda: bool(children(process)))
    worker = children(process)[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75, output.read_text()
    assert "Run the same command again to continue" in output.read_text()
    assert not alive(worker)

    # During training, and to the whole process group, as a scheduler or a terminal sends it.
    process = start(*command)
    wait_for(lambda: process.poll() is not None or training(output), 240)
    assert process.poll() is None, output.read_text()
    worker = children(process)[0]
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(60) == 75, output.read_text()
    said = output.read_text()
    assert "Traceback" not in said and "saved in" in said
    assert not alive(worker)
    folder = tmp_path / "run" / "checkpoints" / "linear_probe-seed0"
    (spent_file,) = folder.glob("*/spent.json")
    spent = json.loads(spent_file.read_text())["train_seconds"]

    # Other settings in between neither continue from there nor are stopped by it.
    other = erel(*command[:-3], "2", *command[-2:])
    assert other.returncode == 0 and "resumed" not in other.stdout, other.stdout + other.stderr

    # Ctrl-C while it goes on: 130, and again nothing is lost.
    process = start(*command)
    wait_for(lambda: process.poll() is not None or training(output), 240)
    assert process.poll() is None, output.read_text()
    assert "resumed at step" in output.read_text()
    worker = children(process)[0]
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, output.read_text()
    assert "Traceback" not in output.read_text() and "stopped; run the same command again" in output.read_text()
    assert not alive(worker)

    done = erel(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resumed at step" in done.stdout and "prepare reused" in done.stdout
    record = next(r for r in read_records(tmp_path / "run" / "records.jsonl") if r.method == "linear_probe")
    assert record.train_seconds > spent
    assert any("resumed at step" in note for note in record.notes)
    assert not folder.exists()
