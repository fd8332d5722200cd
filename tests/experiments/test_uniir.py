"""The UniIR experiment on drawn shapes: it trains, ranks in both kinds of pools, and instructions help."""

import dataclasses
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from erel_jax.data.image_sources import Pictures
from erel_jax.data.mbeir_tasks import load_mbeir
from erel_jax.errors import ConfigError, DataError
from erel_jax.interop.image_processor import vit_settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "uniir.py"
SIZES = {"shapes_task0": 36, "shapes_task3": 36, "colors_task3": 6, "patterns_task3": 6, "recolor_task7": 36}


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(ROOT))
    try:
        from experiments import mbeir_shapes, uniir
    finally:
        sys.path.remove(str(ROOT))
    return uniir, mbeir_shapes


@pytest.fixture(scope="module")
def folder(script, tmp_path_factory):
    return script[1].main(str(tmp_path_factory.mktemp("shapes")), queries=12, tests=6)


def test_drawn_shapes_are_a_sound_folder_in_which_one_query_means_three_things(folder, tmp_path):
    for split, count in (("train", 12), ("test", 6)):
        data = load_mbeir(folder, split, bad_records=tmp_path / "bad.jsonl", max_bad_fraction=0.0)
        assert {name: len(task.pool) for name, task in data.tasks.items()} == SIZES
        assert len(data.union) == sum(SIZES.values())
        assert data.left_out == {}
        same = [data.tasks[name] for name in ("shapes_task3", "colors_task3", "patterns_task3")]
        assert len({tuple(query.image for query in task.queries) for task in same}) == 1
        assert {text for task in same for text in data.texts(task, None)} == {""}
        for row in range(count):
            caption, color, pattern = (task.pool.items[task.positives(task.pool)[row, 0]].text for task in same)
            assert caption == f"{color} {pattern}"
            assert len({data.texts(task, 0)[row] for task in same}) == 3
        assert len({query.id for task in data.tasks.values() for query in task.queries}) == 5 * count
        recolor = data.tasks["recolor_task7"]
        assert (recolor.positives(data.union) >= 0).sum(axis=1).tolist() == [2] * count
        assert (recolor.positives(recolor.pool) >= 0).sum(axis=1).tolist() == [1] * count


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["score", "feature"])
def test_a_short_run_reports_every_task_pool_and_model(script, folder, capsys, fusion):
    settings = dataclasses.replace(script[0].tiny(str(folder), fusion, epochs=1), batch=16, sub_batch=8)
    script[0].main(settings)
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    found = [row for row in rows if "task" in row]
    assert len(found) == 3 * 2 * len(SIZES)
    assert {row["task"]: row["candidates"] for row in found if row["pool"] == "local"} == SIZES
    assert {row["candidates"] for row in found if row["pool"] == "union"} == {sum(SIZES.values())}
    assert all(0 <= row["hit_recall@1"] <= row["hit_recall@5"] <= row["hit_recall@10"] <= 1 for row in found)
    summaries = [row for row in rows if "name" in row]
    assert [row["name"] for row in summaries] == [f"uniir_{fusion}"] * 3
    kinds = [(row["trained_with_instructions"], row["asked_with_instructions"]) for row in summaries]
    assert kinds == [(True, True), (True, False), (False, False)]
    for row in summaries:
        assert row["steps"] == 5 * 12 // 16
        assert row["step_seconds"] > 0
        assert row["step_flops"] > 1e6
        assert row["trainable_parameters"] > 10_000
        mine = [
            r["hit_recall@10"] for r in found if r["pool"] == "union" and all(r[k] == row[k] for k in r if "instr" in k)
        ]
        assert row["union/hit_recall@10"] == pytest.approx(np.mean(mine))
    assert "told / told" in err


@pytest.mark.parametrize("fusion", ["score", pytest.param("feature", marks=pytest.mark.slow)])
def test_what_stands_in_the_place_of_a_missing_picture_reaches_no_gradient(script, folder, tmp_path, fusion):
    data = load_mbeir(folder, "test", bad_records=tmp_path / "bad.jsonl")
    model = script[0].Model(script[0].tiny(str(folder), fusion), data)
    items = [data.union.items[data.union.rows[did]] for did in ("1:0", "2:1", "0:0", "3:5")]
    with Pictures(folder) as pictures:
        inputs = model.inputs(items, data, pictures)
    assert inputs["present"].tolist() == [[True, False]] * 2 + [[False, True]] * 2

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def gradient(params, pixels):
        return jax.grad(lambda p: jnp.sum(model.encode(p, inputs | {"pixels": pixels}) ** 3))(params)

    clean = gradient(model.params, inputs["pixels"])
    absent = ~inputs["present"][:, 1, None, None, None]
    other = gradient(model.params, np.where(absent, np.float32(np.nan), inputs["pixels"]))
    jax.tree.map(np.testing.assert_array_equal, clean, other)
    assert np.isfinite(other["image"]["embeddings"]["patch"]["kernel"]).all()


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP model of 60 tokens and 14 pixels with the stored weights of the golden test."""
    folder = tmp_path / "clip"
    folder.mkdir()
    with np.load(ROOT / "tests" / "golden" / "clip.npz", allow_pickle=False) as file:
        weights = {name.removeprefix("weights/"): file[name] for name in file.files if name.startswith("weights/")}
        (folder / "config.json").write_text(str(file["config"]))
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, folder / "model.safetensors")
    words = ["[PAD]", "[UNK]", "[CLS]", "red", "green", "find", "color", *(f"word{i}" for i in range(52)), "[SEP]"]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # pyright: ignore[reportAttributeAccessIssue]
    backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 59)]
    )
    backend.save(str(folder / "tokenizer.json"))
    (folder / "preprocessor_config.json").write_text(json.dumps(vit_settings(14)))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["score", "feature"])
def test_towers_of_a_clip_folder_are_trained(script, folder, clip_folder, capsys, fusion):
    tiny = script[0].tiny(str(folder), fusion, epochs=1)
    settings = dataclasses.replace(tiny, batch=16, encoder=str(clip_folder), text_length=77, rate=1e-3)
    summaries = script[0].main(settings)
    capsys.readouterr()
    assert all(np.isfinite(summary["last_loss"]) for summary in summaries)
    assert summaries[0]["trainable_parameters"] > 5000


def test_a_stopped_run_goes_on(script, folder, tmp_path):
    """One epoch, then another run for the same two epochs: the positions of order, wordings and positives are kept."""
    uniir = script[0]
    data = load_mbeir(folder, "train", bad_records=tmp_path / "bad.jsonl")
    settings = dataclasses.replace(uniir.tiny(str(folder)), batch=16)
    model = uniir.Model(settings, data)
    with Pictures(folder) as pictures:
        whole, parted = (uniir.Pairs(model, data, pictures, settings, True) for _ in range(2))
        wanted = [next(whole) for _ in range(5)]
        for _ in range(2):
            next(parted)
        position = json.loads(json.dumps(parted.state()))
        again = uniir.Pairs(model, data, pictures, settings, True)
        again.restore(position)
        for batch, ids in wanted[2:]:
            mine, names = next(again)
            assert names == ids
            jax.tree.map(np.testing.assert_array_equal, mine, batch)


def test_an_instruction_that_is_missing_ends_the_run_before_it_begins(script, folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    table = copy / "instructions" / "query_instructions.tsv"
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if "recolor" not in line))
    with pytest.raises(DataError, match="no instruction for data set 3 from 'image,text' to 'image'"):
        script[0].main(script[0].tiny(str(copy)))


@pytest.mark.parametrize("options", [{"fusion": "sum"}, {"batch": 0}, {"sub_batch": 0}])
def test_impossible_settings_are_refused(script, options):
    with pytest.raises(ConfigError, match="expected"):
        script[0].Settings(data="x", **options)


@pytest.mark.slow
def test_instructions_help_in_the_tiny_preset(plain_environment):
    command = [sys.executable, str(SCRIPT), "--preset", "tiny"]
    done = subprocess.run(command, capture_output=True, text=True, env=plain_environment, timeout=500)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    told, _, plain = (row for row in rows if "name" in row)
    assert told["union/hit_recall@1"] > plain["union/hit_recall@1"] + 0.2
