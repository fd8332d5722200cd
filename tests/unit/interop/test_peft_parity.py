"""Adapter folders written here open in Hugging Face peft with equal outputs, and the other way round; live."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from erel_jax import module, tree
from erel_jax.adapters import dora, ia3, lora, prefix_tuning, prompt_tuning, trainable, vera
from erel_jax.encoders import ENCODERS, BertConfig, Gpt2Config, LlamaConfig, bert, decoder, gpt2
from erel_jax.interop.export import save_encoder
from erel_jax.interop.peft_folder import load_adapter, save_adapter

torch = pytest.importorskip("torch", reason="live parity needs torch: pip install torch==2.13.0")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft", reason="live parity needs peft: pip install 'erel-jax[peers]'")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
ENCODER = bert(BertConfig.tiny("pooler"))
WRAPS = {
    "lora": lambda spec: lora(spec, [*trainable.LORA_TARGETS, "pooler/kernel"], rank=3, alpha=5.0),
    "rslora": lambda spec: lora(spec, [".*/mlp/up/kernel"], rank=4, alpha=5.0, rank_stabilized=True),
    "dora": lambda spec: dora(spec, trainable.LORA_TARGETS, rank=2, alpha=3.0),
    "ia3": ia3,
    "vera": lambda spec: vera(spec, [*trainable.LORA_TARGETS, ".*/mlp/up/kernel"], rank=4),
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
    spec = WRAPS[name](ENCODER.module.spec)
    adapted = tree.map_with_path(lambda path, new: kept.get(module.canonical(path), new), drawn(spec, 3))
    if name == "vera":  # its random factors are the same for all kernels
        fixed = {
            path: s.init(None, s.shape, s.dtype) for path, s in tree.paths(spec).items() if path[-2:] in ("/a", "/b")
        }
        adapted = tree.map_with_path(lambda path, leaf: fixed.get(path, leaf), adapted)
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


def bert_mean():
    return bert(BertConfig.tiny("mean"))


def llama():
    return decoder(dataclasses.replace(LlamaConfig.tiny("mean"), causal=True))


def gpt2_causal():
    return gpt2(dataclasses.replace(Gpt2Config.tiny("mean"), causal=True))


@pytest.mark.parametrize("kind", ["prompt", "prefix", "network"])
@pytest.mark.parametrize("build", [bert_mean, *(pytest.param(b, marks=pytest.mark.slow) for b in (llama, gpt2_causal))])
def test_prompts_and_prefixes_both_ways(tmp_path, build, kind):
    """`network` is a prefix that peft makes with its network; what it stores is what the network gave."""
    encoder = build()
    params = drawn(encoder.module.spec, 0)
    model = transformers.AutoModel.from_pretrained(
        save_encoder(tmp_path / "model", encoder, params), attn_implementation="eager"
    )
    rewrite = prompt_tuning if kind == "prompt" else prefix_tuning
    adapted = {**drawn(rewrite(encoder.module.spec, tokens=3), 2), **params}
    if kind == "network":
        config = peft.PrefixTuningConfig(
            task_type="FEATURE_EXTRACTION", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
        )
        model = peft.get_peft_model(model, config).eval()
    else:
        model = peft.PeftModel.from_pretrained(model, save_adapter(tmp_path / "ours", encoder, adapted)).eval()
    ids = np.random.default_rng(1).integers(1, 60, (3, 7)).astype(np.int32)
    mask = np.arange(7)[None] < np.array([7, 3, 5])[:, None]
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long())
    theirs = theirs.last_hidden_state.numpy()[:, -7:]
    model.save_pretrained(tmp_path / "theirs")
    back = load_adapter(tmp_path / "theirs", encoder, params)
    run = jax.jit(lambda p: encoder.module.apply(p, {"ids": ids, "mask": mask}, tokens=True).tokens)
    for ours in (back,) if kind == "network" else (adapted, back):
        np.testing.assert_allclose(run(ours), theirs, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(run(params)) - theirs).max() > 1e-2


@pytest.mark.parametrize("kind", ["vit", "dinov2", "siglip_vision_model"])
def test_renamed_modules_both_ways(tmp_path, kind):
    """In memory, modules of these models have other names than in their files."""
    encoder = ENCODERS[kind].build(ENCODERS[kind].config.tiny())
    params = drawn(encoder.module.spec, 0)
    spec = lora(encoder.module.spec, [*trainable.LORA_TARGETS, "layers/mlp/(up|down)/kernel"], rank=3)
    kept = tree.paths(params)
    adapted = tree.map_with_path(lambda path, new: kept.get(module.canonical(path), new), drawn(spec, 3))
    check_pixels(tmp_path, encoder, params, adapted)


def test_a_subset_of_layers_from_peft(tmp_path):
    encoder = ENCODERS["dinov2"].build(ENCODERS["dinov2"].config.tiny())
    params = drawn(encoder.module.spec, 0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"], layers_to_transform=[1], use_dora=True)
    check_pixels(tmp_path, encoder, params, None, config)


def check_pixels(tmp_path, encoder, params, adapted, config=None):
    """Outputs agree with what was written here (or, without it, with what peft makes of `config`) and read back."""
    folder = save_encoder(tmp_path / "model", encoder, params)
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
    if adapted is None:
        model = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    else:
        model = peft.PeftModel.from_pretrained(model, save_adapter(tmp_path / "ours", encoder, adapted)).eval()
    size = encoder.config.image_size
    pixels = np.random.default_rng(1).normal(size=(2, size, size, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = model(pixel_values=torch.tensor(pixels.transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    model.save_pretrained(tmp_path / "theirs")
    run = jax.jit(lambda p: encoder.module.apply(p, {"pixels": pixels}, tokens=True).tokens)
    back = load_adapter(tmp_path / "theirs", encoder, params)
    for ours in (back,) if adapted is None else (adapted, back):
        np.testing.assert_allclose(run(ours), theirs, rtol=1e-4, atol=1e-4)
    assert np.abs(np.asarray(run(params)) - theirs).max() > 1e-2
