"""A person's own tiny data and encoders, and two ways to run the command line: in a process of its own, and quickly."""

import contextlib
import io
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from erel_jax import cli, tree
from erel_jax.benchmark import worker, worker_process
from erel_jax.encoders import BertConfig, VitConfig, bert, vit
from erel_jax.interop.export import save_encoder
from erel_jax.interop.image_processor import vit_settings
from erel_jax.interop.wordpiece import train_wordpiece

COLORS = ("red", "green", "blue", "white", "black", "brown")
THINGS = ("shoe", "lamp", "book", "cable", "glue", "scale", "filter", "pump")
ATTACK = "<script>alert('x')</script>"
ITEMS, USERS = 40, 60
NO_TEXT, BLANK_TEXT, NO_PICTURE = ("i7", "i19"), ("i8",), ("i3", "i11", "i30")


def _drawn(path: str, spec) -> np.ndarray:
    seed = zlib.crc32(path.encode())
    return np.random.default_rng(seed).normal(size=spec.shape).astype(np.float32) * 0.3


def title(number: int) -> str:
    """A title that no other item has; many of them attack the report."""
    tail = f" {ATTACK}" if number % 3 == 0 else " & \U0001f642 «Ω»\u202e" if number % 5 == 0 else ""
    return f"{COLORS[number % 6]} {THINGS[number // 6 % 8]} {number}{tail}"


def picture(number: int) -> Image.Image:
    """Noise that differs from every other item's."""
    return Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 24, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def encoders(tmp_path_factory) -> dict[str, Path]:
    """Folders of a BERT and a ViT with random weights, in the Hugging Face layout."""
    root = tmp_path_factory.mktemp("encoders")
    tokenizer = train_wordpiece([title(number) for number in range(ITEMS)], vocabulary=300)
    text = bert(
        BertConfig(
            vocabulary=tokenizer.vocabulary, width=16, layers=2, heads=2, mlp_width=32, max_positions=64, pooling="mean"
        )
    )
    image = vit(VitConfig(image_size=16, patch=8, width=16, layers=2, heads=2, mlp_width=32))
    made: list[tuple[str, Any, dict[str, Any]]] = [
        ("text", text, {"tokenizer_json": tokenizer.to_json()}),
        ("image", image, {"preprocessor": vit_settings(16)}),
    ]
    for name, tower, extra in made:
        params = tree.map_with_path(_drawn, tower.module.spec)
        save_encoder(root / name, tower, params, **extra)
        (root / name / "manifest.json").unlink()  # folders from elsewhere have none
    return {name: root / name for name in ("text", "image")}


def write_sequences(root: Path) -> None:
    """`users.tsv` with two users too short to count, `items.tsv`, and `pictures/`, each with gaps."""
    draw = np.random.default_rng(0)
    lines = [f"u{u}\t{' '.join(f'i{i}' for i in draw.permutation(ITEMS)[: 5 + u % 8])}" for u in range(USERS)]
    (root / "users.tsv").write_text("\n".join([*lines, "short1\ti1 i2", "short2\ti1 i2 i3 i4"]) + "\n")
    named = [i for i in range(ITEMS) if f"i{i}" not in NO_TEXT]
    rows = [f"i{i}\t{'' if f'i{i}' in BLANK_TEXT else title(i)}" for i in named]
    (root / "items.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (root / "pictures").mkdir()
    for i in range(ITEMS):
        if f"i{i}" not in NO_PICTURE:
            picture(i).save(root / "pictures" / f"i{i}.png")


@pytest.fixture
def sequences(tmp_path) -> Path:
    """Folder with `users.tsv`, `items.tsv` and `pictures/`."""
    root = tmp_path / "own data"
    root.mkdir()
    write_sequences(root)
    return root


@pytest.fixture
def pairs(tmp_path) -> Path:
    """A CSV of 60 pictures with 40 distinct texts, beside its pictures; one row has no text."""
    root = tmp_path / "pairs"
    root.mkdir()
    rows = ["image,text"]
    for number in range(60):
        picture(number).save(root / f"p{number}.png")
        rows.append(f'p{number}.png,"{title(number % ITEMS)}"')
    picture(99).save(root / "blank.png")
    (root / "shop.csv").write_text("\n".join([*rows, "blank.png,"]) + "\n", encoding="utf-8")
    return root / "shop.csv"


@pytest.fixture
def erel(plain_environment, tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `erel` as a person does, in a process of its own."""

    def run(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "erel_jax.cli", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=plain_environment,
            cwd=tmp_path,
            timeout=240,
            **options,
        )

    return run


class InThisProcess:
    """Stands in for `subprocess.Popen`: the worker's own code and messages without the start of an interpreter."""

    def __init__(self, arguments, **_):
        with contextlib.redirect_stdout(io.StringIO()) as stream:
            self.code = worker.main(arguments[3:])
        self.stdout = io.StringIO(stream.getvalue())

    def wait(self) -> int:
        return self.code

    poll = wait


@pytest.fixture
def quick(monkeypatch, capsys, tmp_path) -> Callable[..., SimpleNamespace]:
    """Runs `erel` in this process, workers too; gives `code`, `out` and `err`."""
    monkeypatch.chdir(tmp_path)
    stand_in = SimpleNamespace(**{**vars(subprocess), "Popen": InThisProcess})
    monkeypatch.setattr(worker_process, "subprocess", stand_in)

    def run(*arguments: object) -> SimpleNamespace:
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run
