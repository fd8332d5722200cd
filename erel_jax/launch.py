"""Start one process of a run that spans several processes or hosts.

JAX programs on several hosts are the same program started once per host, after the processes have found each other.
This module does that one step and then runs an ordinary script or module unchanged:

    python -m erel_jax.launch --check                     # every process joins, adds up a number, and says so
    python -m erel_jax.launch experiments/NAME.py ...     # a script
    python -m erel_jax.launch -m erel_jax.cli bench ...   # a module

Where to find the others is read from the environment, so that every scheduler can set it:

- nothing set: one process, nothing to join;
- `EREL_COORDINATOR=auto`: JAX asks the scheduler (SLURM, Kubernetes, Open MPI, Cloud TPU);
- `EREL_COORDINATOR=host:port`, `EREL_PROCESSES=N` and `EREL_PROCESS=0..N-1`: said explicitly; the coordinator is
  process 0 and its port must be reachable from the others.

The folders `gpu/` and `tpu/` set the rest of the environment.
"""

import importlib.util
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from erel_jax.errors import ConfigError, ErelError

JOIN_TIMEOUT_SECONDS = 300


def process_options(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """Read from the environment how this process joins the others.

    Args:
        environment: Variables, e.g. `os.environ`.

    Returns:
        Arguments for `jax.distributed.initialize`, empty where JAX is to ask the scheduler; None for a single process.

    Raises:
        ConfigError: Some of the variables are missing or are not sensible numbers.
    """
    coordinator = environment.get("EREL_COORDINATOR", "")
    numbers = {name: environment.get(name, "") for name in ("EREL_PROCESSES", "EREL_PROCESS")}
    if coordinator == "auto":
        return {}
    if not coordinator and not any(numbers.values()):
        return None
    form = "expected EREL_COORDINATOR=host:port, EREL_PROCESSES=N and EREL_PROCESS=0..N-1, or EREL_COORDINATOR=auto"
    host, _, port = coordinator.rpartition(":")
    if not host or not all(text.isdecimal() for text in (port, *numbers.values())):
        raise ConfigError(f"got EREL_COORDINATOR={coordinator!r}, {numbers}; {form}.")
    count, index = int(numbers["EREL_PROCESSES"]), int(numbers["EREL_PROCESS"])
    if index >= count:
        raise ConfigError(f"EREL_PROCESS={index} is not below EREL_PROCESSES={count}; {form}.")
    return {"coordinator_address": coordinator, "num_processes": count, "process_id": index}


def start_processes(environment: Mapping[str, str] = os.environ) -> int:
    """Join the other processes of this run, before any array is made.

    Args:
        environment: See `process_options`.

    Returns:
        The number of processes.

    Raises:
        ConfigError: The variables are incomplete.
        RuntimeError: The others did not appear within five minutes (raised by JAX).
    """
    import jax

    options = process_options(environment)
    if options is not None:
        jax.distributed.initialize(**options, initialization_timeout=JOIN_TIMEOUT_SECONDS)
    return jax.process_count()


def check_processes() -> str:
    """Add up one number per device over all processes.

    Returns:
        A line that names this process, its devices and the result.

    Raises:
        ErelError: The result is wrong, so collectives between the processes do not work.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("data",))
    mine = np.array([device.id + 1.0 for device in devices if device.process_index == jax.process_index()], np.float32)
    values = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("data")), mine)
    add = jax.jit(jnp.sum, out_shardings=NamedSharding(mesh, PartitionSpec()))
    total, expected = float(add(values)), float(sum(device.id + 1.0 for device in devices))
    line = (
        f"process {jax.process_index()} of {jax.process_count()}: {len(mine)} of {len(devices)} "
        f"{devices[0].device_kind} devices, sum over all {total:g}"
    )
    if total != expected:
        raise ErelError(f"{line}, expected {expected:g}. Collectives between the processes do not work.")
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Join the other processes, then run what the command line names.

    Args:
        arguments: `--check`, a script and its arguments, or `-m`, a module and its arguments.

    Raises:
        ConfigError: Nothing that can be run is named, or the environment is incomplete.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return
    _check_runnable(words)  # before the others are waited for
    start_processes()
    if words == ["--check"]:
        print(check_processes(), flush=True)
    elif words[0] == "-m":
        _check_module(words[1])
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def _check_runnable(words: Sequence[str]) -> None:
    """Refuses what cannot be started, with what could be."""
    form = "expected --check, SCRIPT.py ARGUMENTS, or -m MODULE ARGUMENTS"
    if not words or words == ["-m"]:
        raise ConfigError(f"Nothing to run: {form}.")
    if words == ["--check"]:
        return
    if words[0] == "-m":
        _check_module(words[1].partition(".")[0])  # nothing is imported for that, so no array can be made too early
    elif words[0].startswith("-"):
        raise ConfigError(f"got {' '.join(words)}; {form}.")
    elif not os.path.exists(words[0]):
        raise ConfigError(f"{words[0]}: no such script. Check the path; {form}.")


def _check_module(name: str) -> None:
    try:
        found = importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # what stands before the last dot is missing or no package, or the name is empty
        found = False
    if not found:
        raise ConfigError(f"there is no module {name!r} to run. Check its name, and that it is installed.")


if __name__ == "__main__":
    try:
        main()
    except ErelError as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_code)
