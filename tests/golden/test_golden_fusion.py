"""Feature fusion of one modality against the stored output of the original T5 encoder (see make_fusion.py)."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from erel_jax.fusion import FeatureFusionConfig, feature_fusion
from erel_jax.fusion.feature import distance_buckets


def test_one_modality_is_the_encoder_of_t5_and_the_mean_over_real_tokens():
    with np.load(Path(__file__).with_name("fusion.npz"), allow_pickle=False) as file:
        arrays = {name.removeprefix("weights/encoder."): file[name] for name in file.files}
    config = FeatureFusionConfig(
        widths=(14,), width=14, heads=3, head_width=6, mlp_width=20, buckets=16, far=24, projection=None
    )

    def stacked(name, transposed=True):
        layers = [arrays[f"block.{number}.layer.{name}.weight"] for number in range(2)]
        return jnp.stack([weight.T if transposed else weight for weight in layers])

    names = {"query": "q", "key": "k", "value": "v", "output": "o"}
    params = {
        "distance": {"table": jnp.asarray(arrays["block.0.layer.0.SelfAttention.relative_attention_bias.weight"])},
        "layers": {
            "attention_norm": {"scale": stacked("0.layer_norm", False)},
            "attention": {ours: {"kernel": stacked(f"0.SelfAttention.{theirs}")} for ours, theirs in names.items()},
            "mlp_norm": {"scale": stacked("1.layer_norm", False)},
            "mlp": {
                "up": {"kernel": stacked("1.DenseReluDense.wi")},
                "down": {"kernel": stacked("1.DenseReluDense.wo")},
            },
        },
        "final_norm": {"scale": jnp.asarray(arrays["final_layer_norm.weight"])},
    }
    mask = jnp.asarray(arrays["mask"])
    present = jnp.ones((len(mask), 1), bool)
    ours = feature_fusion(config).apply(params, [jnp.asarray(arrays["tokens"])], [mask], present)
    np.testing.assert_allclose(ours, arrays["mean"], rtol=1e-5, atol=1e-5)
    assert len(np.unique(distance_buckets([40], 16, 24))) == 15, "all buckets but that of distance 0 to the right"
