"""House rules that a linter does not know: sizes, names, docstrings, forbidden words."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE_FILES = sorted((ROOT / "erel_jax").rglob("*.py"))
ALL_PYTHON = sorted(
    path for folder in ("erel_jax", "experiments", "tests", "tpu", "gpu") for path in (ROOT / folder).rglob("*.py")
)
TEXTS = ALL_PYTHON + sorted(
    path
    for pattern in ("*.md", "*.toml", ".ci/*", "docs/**/*.md", "tpu/**/*", "gpu/**/*", "experiments/**/*.md")
    for path in ROOT.glob(pattern)
    if path.is_file() and path.suffix in {"", ".md", ".toml", ".sh", ".yaml", ".txt"}
)

FILE_LINES = 400
FUNCTION_LINES = 60
NAMES_THAT_SAY_NOTHING = {"util", "utils", "helper", "helpers", "common", "misc", "base"}
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:" + "|".join(["work", "root", "farm", "home/\\w+"]) + r")/")
FORBIDDEN = {
    "private JAX": re.compile(r"\bjax\._" + "src"),
    "flax.nnx": re.compile(r"^\s*(?:import flax\.nnx|from flax import .*\bnnx|from flax\.nnx)", re.MULTILINE),
    "unpickling": re.compile("allow_pickle" + "=True|pickle" + r"\.load|torch\." + r"load\("),
    "swallowed error": re.compile(r"except(?: Exception)?:\s*\n\s*pass\b"),
    "remote code": re.compile("trust_remote_code" + r"\s*=\s*True"),
}


def identify(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods at the top of a module that have no docstring."""
    missing = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            inner = node.body if isinstance(node, ast.ClassDef) else []
            methods = [m for m in inner if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")]
            missing += [f"line {n.lineno}: {n.name}" for n in [node, *methods] if not ast.get_docstring(n)]
    return missing


def faults(paths, look) -> dict[str, list]:
    """What `look` finds in each file that it finds something in."""
    found = {identify(path): look(path) for path in paths}
    return {name: fault for name, fault in found.items() if fault}


def look_at_package_file(path: Path) -> list[str]:
    tree, text = parse(path), path.read_text("utf-8")
    long = [f.name for f in functions(tree) if (f.end_lineno or 0) - f.lineno + 1 > FUNCTION_LINES]
    found = [f"{name} has more than {FUNCTION_LINES} lines" for name in long]
    if text.count("\n") > FILE_LINES:
        found.append(f"more than {FILE_LINES} lines: which two things does this file hold?")
    if path.stem in NAMES_THAT_SAY_NOTHING:
        found.append("a name that says nothing")
    if not ast.get_docstring(tree):
        found.append("no docstring: a module opens with a paragraph that a newcomer can read")
    return found + undocumented(tree)


def look_at_init(path: Path) -> list[int]:
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign, ast.If)
    lazy = ("__getattr__", "__dir__")
    body = parse(path).body
    return [node.lineno for node in body if not isinstance(node, allowed) and getattr(node, "name", None) not in lazy]


def look_at_tests(path: Path) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return [
        f"{f.name}:{f.lineno}"
        for f in functions(parse(path))
        if f.name.startswith("test_")
        and not re.search(r"raises|assert|warns|check_|expect", "\n".join(lines[f.lineno - 1 : f.end_lineno]))
    ]


def test_package_files():
    assert faults(PACKAGE_FILES, look_at_package_file) == {}


def test_package_inits_only_reexport():
    assert faults(sorted((ROOT / "erel_jax").rglob("__init__.py"))[1:], look_at_init) == {}


def test_no_forbidden_words():
    def look(path: Path) -> list[str]:
        text = path.read_text("utf-8")
        return [why for why, pattern in FORBIDDEN.items() if pattern.search(text)]

    assert faults(ALL_PYTHON, look) == {}


def test_no_path_of_one_machine():
    assert faults(TEXTS, lambda path: MACHINE_PATH.findall(path.read_text("utf-8"))) == {}


def test_every_test_can_fail():
    assert faults([p for p in ALL_PYTHON if p.name.startswith("test_")], look_at_tests) == {}


def test_the_rules_can_fail():
    assert MACHINE_PATH.search("open('/" + "work/x')")
    assert not MACHINE_PATH.search("../" + "work/x and $HOME/" + "root/x")
    assert FORBIDDEN["private JAX"].search("from jax._" + "src import core")
    assert undocumented(ast.parse("def public(): pass\ndef _private(): pass")) == ["line 1: public"]
