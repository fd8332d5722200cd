"""Adapter folders written here open in Hugging Face peft with equal outputs, and the other way round; live."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import dora, ia3, lora, trainable
from erel_jax.encoders import BertConfig, bert
from erel_jax.interop.export import save_encoder
from erel_jax.interop.peft_folder import load_adapter, save_adapter

torch = pytest.importorskip("torch", reason="live parity needs torch: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="pip install --no-deps peft accelerate")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
ENCODER = bert(BertConfig.tiny("pooler"))
WRAPS = {
    "lora": lambda spec: lora(spec, [*trainable.LORA_TARGETS, "pooler/kernel"], rank=3, alpha=5.0),
    "rslora": lambda spec: lora(spec, [".*/mlp/up/kernel"], rank=4, alpha=5.0, rank_stabilized=True),
    "dora": lambda spec: dora(spec, trainable.LORA_TARGETS, rank=2, alpha=3.0),
    "ia3": ia3,
}


def drawn(spec, seed):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray((0.3 * draw.normal(size=s.shape)).astype(np.float32)), spec)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    params = drawn(ENCODER.module.spec, 0)
    return save_encoder(tmp_path_factory.mktemp("base") / "model", ENCODER, params), params


@pytest.mark.parametrize("name", WRAPS)
def test_both_ways(base, tmp_path, name):
    folder, params = base
    kept = tree.paths(params)
    adapted = tree.map_with_path(
        lambda path, new: kept.get(module.canonical(path), new), drawn(WRAPS[name](ENCODER.module.spec), 3)
    )
    written = save_adapter(tmp_path / "ours", ENCODER, adapted, rank_stabilized=name == "rslora")
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(model, written).eval()
    ids = np.random.default_rng(1).integers(1, 60, (3, 7)).astype(np.int32)
    mask = np.arange(7)[None] < np.array([7, 3, 5])[:, None]
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    run = jax.jit(lambda p: ENCODER.module.apply(p, {"ids": ids, "mask": mask}, tokens=True))
    np.testing.assert_allclose(run(adapted).tokens, theirs.last_hidden_state.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(run(adapted).embedding, theirs.pooler_output.numpy(), rtol=1e-5, atol=1e-5)

    model.save_pretrained(tmp_path / "theirs")
    back = load_adapter(Path(tmp_path / "theirs"), ENCODER, params)
    np.testing.assert_allclose(run(back).tokens, theirs.last_hidden_state.numpy(), rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(run(params).tokens) - np.asarray(run(back).tokens)).max() > 1e-2
