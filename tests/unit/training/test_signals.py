"""The flag in this process, and what signals do to a real one."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from erel_jax.errors import ConfigError, PreemptedError
from erel_jax.training import StopFlag


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_sets_the_flag_and_leaving_restores_handlers(number):
    former, descriptor = signal.getsignal(number), signal.set_wakeup_fd(-1)
    with StopFlag() as stop:
        assert not stop.requested and stop.name is None
        stop.check("evaluation")
        os.kill(os.getpid(), number)
        wait_for(lambda: stop.requested)
        assert stop.name == signal.Signals(number).name
        with pytest.raises(PreemptedError, match="came during evaluation"):
            stop.check("evaluation")
    assert signal.getsignal(number) is former
    assert signal.set_wakeup_fd(descriptor) == -1
    assert "erel-stop-flag" not in [thread.name for thread in threading.enumerate()]


def test_other_thread_is_refused():
    errors = []

    def enter():
        try:
            StopFlag().__enter__()
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


def restore(checkpoints, *wanted):
    found = checkpoints.restore(*wanted)
    assert found is not None
    return found


def child(code, environment) -> Any:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def test_second_signal_ends_the_process_at_once(plain_environment):
    # One long call into C that never comes back to the interpreter, as XLA compiling does.
    process = child(
        """
        import re
        from erel_jax.training import StopFlag
        with StopFlag():
            print("ready", flush=True)
            import ctypes
            ctypes.CDLL(None).pause.restype = None
            while True:
                ctypes.CDLL(None).sleep(60)
        """,
        plain_environment,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.communicate()


TRAINING = """
    import sys, jax, jax.numpy as jnp, numpy as np
    from erel_jax.errors import PreemptedError
    from erel_jax.training import Checkpoints, StopFlag, adam, fit, new_state, train_step

    class Stream:
        k = 0
        def __next__(self):
            self.k += 1
            return {"x": np.random.default_rng(self.k).normal(size=(8, 4)).astype(np.float32)}, list(range(8))
        def state(self):
            return {"k": self.k}
        def restore(self, state):
            self.k = state["k"]

    optimizer = adam(0.01)
    step = train_step(lambda p, b, key: (jnp.mean(jnp.square(b["x"] @ p["w"] - 1.0)), {}), optimizer)
    state, stream = new_state({"w": jnp.zeros(4)}, optimizer, jax.random.key(0)), Stream()
    checkpoints = Checkpoints(sys.argv[1], {"seed": 0})
    if found := checkpoints.restore(state):
        state = found.state
        stream.restore(found.stream_state)

    def show(progress):
        print(progress.step, repr(progress.loss), flush=True)
        if "slow" in sys.argv:
            import time
            time.sleep(0.05)

    try:
        with StopFlag() as stop:
            fit(step, state, None, stream, steps=int(sys.argv[2]), checkpoint=checkpoints, stop=stop, on_progress=show)
    except PreemptedError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


def train(folder, environment, *options) -> Any:
    command = [sys.executable, "-c", textwrap.dedent(TRAINING), str(folder), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_sigterm_saves_exits_75_and_resumes_bit_for_bit(tmp_path, plain_environment):
    interrupted = train(tmp_path / "a", plain_environment, "400", "slow")
    lines = [interrupted.stdout.readline() for _ in range(4)]
    interrupted.send_signal(signal.SIGTERM)
    rest, errors = interrupted.communicate(timeout=120)
    assert interrupted.returncode == 75, errors
    assert "SIGTERM came after" in errors and "saved in" in errors
    lines += rest.splitlines(keepends=True)
    taken = len(lines)
    assert 4 <= taken < 400

    total = str(taken + 5)
    both = [train(tmp_path / name, plain_environment, total) for name in ("a", "b")]
    (resumed, errors), (straight, _) = [process.communicate(timeout=120) for process in both]
    assert "".join(lines) + resumed == straight, errors
    assert straight.count("\n") == taken + 5


def test_kill_during_a_save_leaves_complete_steps_only(tmp_path, plain_environment):
    code = f"""
        import jax, jax.numpy as jnp
        from erel_jax.training import Checkpoints, adam, new_state
        optimizer = adam(0.1)
        state = new_state({{"w": jax.random.uniform(jax.random.key(1), (1500, 1500))}}, optimizer, jax.random.key(0))
        checkpoints = Checkpoints({str(tmp_path)!r}, {{}}, keep=9)
        for step in range(1, 200):
            print("saving", step, flush=True)
            checkpoints.save(step, state, {{"k": step}})
        """
    process = child(code, plain_environment)
    try:
        while process.stdout.readline() != "saving 3\n":
            assert process.poll() is None
        wait_for(lambda: any(tmp_path.glob("*.tmp-*")))
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL

    import jax

    from erel_jax.training import Checkpoints, adam, new_state

    lines = []
    checkpoints = Checkpoints(tmp_path, {}, report=lines.append)
    assert len(lines) == 1 and "its writer was killed" in lines[0]
    assert not list(tmp_path.glob("*.tmp-*"))
    assert checkpoints.steps()[:2] == [1, 2]
    weights = jax.random.uniform(jax.random.key(1), (1500, 1500))
    optimizer = adam(0.1)
    template = new_state({"w": jax.numpy.zeros((1500, 1500))}, optimizer, jax.random.key(5))
    found = restore(checkpoints, template)
    assert found.step == checkpoints.latest() and found.stream_state == {"k": found.step}
    assert jax.numpy.array_equal(found.state.trainable["w"], weights)
