"""A network of your own in a configuration of your own; the package stays as it is.

python main.py --config examples/own_network.py:streets --workdir runs/own
python main.py export --config examples/own_network.py:streets --weights runs/own --also=onnx
"""

import flax.linen as nn
import jax.numpy as jnp

from configs import arguments, source_only
from rtda_jax.models import MODELS
from rtda_jax.models.layers import Conv, Network
from rtda_jax.ops.resize import upsample


class Own(Network):
    """Three convolutions of stride 2 and a classifier, without auxiliary heads."""

    @nn.compact
    def __call__(self, images, *, train=False):
        """Returns the scores of normalised images [B,H,W,3], and the features before them."""
        x = images
        for k in range(3):
            x = Conv(16 << k, 3, stride=2, dtype=self.dtype)(x)
            x = nn.relu(self.norm_layer()()(x, train=train))
        scores = Conv(self.num_classes, use_bias=True, dtype=self.dtype)(x)
        scores = upsample(scores.astype(jnp.float32), size=images.shape[1:3])
        return {"logits": scores, "feature": x.astype(jnp.float32)}


MODELS["own"] = Own


def make(benchmark):
    """Returns training on the source of a benchmark with this network."""
    config = source_only.make(benchmark)
    config.model.name = "own"
    config.objective.seg_aux16 = config.objective.seg_aux32 = 0.0  # it has no such heads
    return config


get_config = arguments.parsed(make)
