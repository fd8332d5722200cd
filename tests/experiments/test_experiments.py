"""Every script of `experiments/` can be imported, and runs on data small enough for a test."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from erel_jax import tree
from erel_jax.encoders import BertConfig, bert
from erel_jax.interop.export import save_encoder
from erel_jax.interop.wordpiece import train_wordpiece

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__init__")
PARTS = {"command", "healing", "picture_vectors", "sentence_vectors", "side_by_side", "speed_lists", "uniir_model"}
"""Modules that other scripts are made of."""
# The training steps compile in both frameworks and take most of a minute each.
SLOW = {"speed_cached_side_training", "speed_uncached_side_training", "speed_crossan"}
SPEED = [
    pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name in SCRIPTS
    if name.startswith("speed_")
    and name not in PARTS
    and not (ROOT / "tests" / "experiments" / f"test_{name}.py").exists()
]
ITEMS, USERS = 30, 24


@pytest.fixture
def run(plain_environment, tmp_path):
    """Runs Python with the given arguments from elsewhere, as a person does, and returns what it printed."""

    def python(*arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=plain_environment,
            cwd=tmp_path,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return python


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_can_be_imported_and_says_what_it_does(name: str, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module(f"experiments.{name}")
    assert len((script.__doc__ or "").strip()) > 40
    if name not in PARTS:
        assert callable(script.main)
        assert f"experiments/{name}.py" in str(script.__doc__)


@pytest.mark.slow
def test_the_recommendation_experiment_on_tiny_data(run, tmp_path) -> None:
    draw = np.random.default_rng(0)
    users = [f"u{u}\t{' '.join(f'i{i}' for i in draw.permutation(ITEMS)[: 5 + u % 4])}" for u in range(USERS)]
    (tmp_path / "users.tsv").write_text("\n".join(users) + "\n")
    titles = [f"article number {i}" for i in range(ITEMS)]
    (tmp_path / "items.tsv").write_text("".join(f"i{i}\t{title}\n" for i, title in enumerate(titles)))
    tokenizer = train_wordpiece(titles, vocabulary=200)
    config = BertConfig(
        vocabulary=tokenizer.vocabulary, width=8, layers=1, heads=2, mlp_width=16, max_positions=64, pooling="mean"
    )
    encoder = bert(config)
    params = tree.map_with_path(
        lambda _, spec: draw.normal(size=spec.shape).astype(np.float32) * 0.3, encoder.module.spec
    )
    save_encoder(tmp_path / "text", encoder, params, tokenizer_json=tokenizer.to_json())
    program = (
        "import json; from experiments.recommendation_scientific import main; "
        "print(json.dumps(main('users.tsv', 'items.tsv', 'text', methods='linear_probe', epochs=1, out='run')))"
    )
    quality = json.loads(run("-c", program).splitlines()[-1])
    assert {"popularity-seed0", "markov-seed0", "combined_floors-seed0", "linear_probe-seed0"} <= set(quality)
    assert all(0.0 <= value <= 1.0 for value in quality.values())
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parity
@pytest.mark.parametrize("name", SPEED)
def test_a_speed_script_prints_rows_with_both_sides(name: str, run) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed: pip install -e '.[peers]'")
    rows = []
    for line in run(ROOT / "experiments" / f"{name}.py", "--preset", "tiny").splitlines():
        if line.startswith("{"):
            rows.append(json.loads(line))
    assert rows
    for row in rows:
        assert {"name", "ours", "peer", "unit", "ratio"} <= set(row)
        assert row["ours"] > 0 and row["peer"] > 0 and row["ratio"] > 0
