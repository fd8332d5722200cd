"""Who may import whom, and what an import costs.

Each room of the package lists the rooms it may know; each heavy package has its door. The rules are read from the
syntax trees, so an import inside a function counts too.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "erel_jax"

GROUND = {"errors", "folders", "artifacts"}
CORE = {"tree", "module"}
MODELS = CORE | {"layers", "sharding"}
LEARNED = MODELS | {"encoders", "adapters", "compression", "recommendation", "fusion"}
ALL_BELOW_BENCHMARK = LEARNED | {
    "losses",
    "metrics",
    "retrieval",
    "interaction",
    "selection",
    "distillation",
    "data",
    "interop",
    "training",
    "profiling",
}

MAY_KNOW: dict[str, set[str]] = {
    "errors": set(),
    "folders": {"errors"},
    "artifacts": {"errors", "folders"},
    "host_memory": set(),
    "kmeans": set(),
    "doctor": GROUND | {"profiling"},
    "launch": GROUND,
    "tree": GROUND,
    "module": GROUND | {"tree"},
    "layers": GROUND | CORE,
    "sharding": GROUND | CORE,
    "encoders": GROUND | MODELS,
    "adapters": GROUND | MODELS | {"encoders", "compression"},
    "compression": GROUND | MODELS | {"encoders"},
    "recommendation": GROUND | MODELS,
    "fusion": GROUND | MODELS,
    "losses": GROUND | {"tree"},
    "metrics": GROUND | {"tree"},
    "retrieval": GROUND | {"tree", "kmeans", "interaction"},
    "interaction": GROUND | {"tree"},
    "selection": GROUND | {"losses", "metrics", "kmeans"},
    "distillation": GROUND | MODELS | {"encoders", "losses", "data", "profiling"},
    "data": GROUND | {"tree"},
    "interop": GROUND | LEARNED,
    "training": GROUND | LEARNED | {"losses", "metrics", "data", "interop"},
    "profiling": GROUND | MODELS,
    "catalogs": GROUND | MODELS | {"compression", "retrieval", "data", "interop", "training"},
    "benchmark": GROUND | ALL_BELOW_BENCHMARK | {"host_memory"},
    "cli": GROUND | ALL_BELOW_BENCHMARK | {"benchmark", "catalogs", "doctor"},
}

DOORS: dict[str, set[str]] = {
    "tensorflow_datasets": {"data"},
    "grain": {"data"},
    "array_record": {"data"},
    "PIL": {"data"},
    "pyarrow": {"data", "retrieval"},
    "transformers": {"interop"},
    "safetensors": {"interop"},
    "tokenizers": {"interop"},
    "huggingface_hub": {"interop"},
    "flax.linen": {"interop"},
    "optax": {"training"},
    "orbax": {"training"},
    "sklearn": {"recommendation", "benchmark"},
    "matplotlib": {"benchmark", "data"},
    "jinja2": {"benchmark", "catalogs"},
    "tyro": {"cli"},
    "faiss": {"retrieval"},
    "lancedb": {"retrieval"},
    "qdrant_client": {"retrieval"},
    "torch": set(),
    "tensorflow": set(),
    "flax.nnx": set(),
    "pickle": set(),
    ".".join(["jax", "_src"]): set(),
    "jax.interpreters": set(),
}

HEAVY = ["transformers", "tensorflow_datasets", "grain", "orbax", "torch", "flax.nnx", "matplotlib", "sklearn", "PIL"]
HEAVY += ["faiss", "lancedb", "qdrant_client"]
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_names(path: Path) -> list[tuple[int, str]]:
    """Line and dotted name of everything that a file imports; `from a import b` gives `a.b`."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def direction_faults(room: str, names: list[tuple[int, str]]) -> list[str]:
    faults = []
    for line, name in names:
        parts = name.split(".")
        if parts[0] == "erel_jax" and len(parts) > 1 and parts[1] not in MAY_KNOW.get(room, set()) | {room}:
            if parts[1] == "__version__":
                continue
            faults.append(f"line {line}: {room} may not know {parts[1]} ({name})")
    return faults


def door_faults(room: str, names: list[tuple[int, str]]) -> list[str]:
    return [
        f"line {line}: {package} belongs to {sorted(rooms) or 'nobody'}, not to {room}"
        for line, name in names
        for package, rooms in DOORS.items()
        if (name == package or name.startswith(package + ".")) and room not in rooms
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_import_direction_and_doors(path):
    room = room_of(path)
    if room == "__init__":
        return
    assert room in MAY_KNOW, f"{room} is a new room: say in MAY_KNOW what it may know"
    names = imported_names(path)
    assert direction_faults(room, names) + door_faults(room, names) == []


def test_the_rules_can_fail():
    assert direction_faults("layers", [(3, "erel_jax.training.loop")]) == [
        "line 3: layers may not know training (erel_jax.training.loop)"
    ]
    assert door_faults("losses", [(1, "flax.linen.Module")]) == [
        "line 1: flax.linen belongs to ['interop'], not to losses"
    ]
    assert door_faults("data", [(1, "grain.python"), (2, "grainy")]) == []


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy modules a fresh process has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    return set(done.stdout.split())


def test_losses_load_nothing_heavy():
    if not (PACKAGE / "losses").is_dir():
        pytest.skip("no losses room yet")
    assert loaded_by("from erel_jax import losses") == set()


def test_rooms_load_nothing_heavy():
    """Importing the packages by name is cheap; heavy work starts in their leaf modules."""
    rooms = sorted({room_of(path) for path in FILES} - {"__init__"})
    assert loaded_by("; ".join(f"import erel_jax.{room}" for room in rooms)) == set()


def test_top_level_import_is_quick_and_complete():
    code = (
        "import time, jax\nstart = time.process_time()\nimport erel_jax\n"
        "print(time.process_time() - start)\nassert 'losses' in dir(erel_jax)\nprint(erel_jax.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, check=True)
    seconds, version = done.stdout.split()
    assert float(seconds) < 2.0, "the promise is 1 s; this guard allows for a slow machine"
    assert version.count(".") == 2


def test_unknown_attribute_is_an_attribute_error():
    import erel_jax

    with pytest.raises(AttributeError, match="no_such_room"):
        _ = erel_jax.no_such_room
