"""A method of your own in a configuration of your own; the package stays as it is.

python main.py --config examples/own_method.py:streets --workdir runs/own_method

objective(G) = seg + seg_aux16 + seg_aux32 + weight·agree
agree        = cross-entropy of the predictions for the target at dusk with those for it as it is
"""

import jax
import jax.numpy as jnp

from configs import arguments, source_only
from rtda_jax.adapt.terms import TERMS, Term
from rtda_jax.adapt.views import PARTS, VIEWS, Part
from rtda_jax.augment import image_keys
from rtda_jax.augment.colour import RECOLOURS, recolour
from rtda_jax.losses import Sum


def darken(images, key, index):
    """Returns images [B,H,W,3] in [0,255], darkened by a gamma from 1 to 3 of each."""
    gamma = 1 + 2 * jax.vmap(jax.random.uniform)(image_keys(key, index))
    return 255 * (images / 255) ** gamma.reshape(-1, 1, 1, 1)


def dusk(context):
    """Adds the view `dusk`, the target in the dark."""
    if "dusk" not in context.views:
        return None
    darker = recolour("darken", draw=context.options.augment.draw, seed=context.seed)

    def change(batch, key, state):
        del state
        return {"dusk_image": darker(batch["target_image"], key, batch["target_index"])}

    return Part("dusk", change)


def agree(context):
    """Returns the cross-entropy of both views' predictions; that of the target is not moved."""
    del context

    def evaluate(outputs, batch):
        del batch
        p = jax.nn.softmax(jax.lax.stop_gradient(outputs["target"]["logits"]))
        loss = -(p * jax.nn.log_softmax(outputs["dusk"]["logits"])).sum(axis=-1)
        return Sum(loss.sum(), jnp.float32(loss.size))

    return Term(evaluate, views=frozenset({"target", "dusk"}), head="logits")


RECOLOURS["darken"] = darken  # may be named as augment.texture and augment.strong, too
PARTS["dusk"] = dusk  # runs before the images are normalised
VIEWS["dusk"] = "target"  # the domain that the view shows
TERMS["agree"] = agree  # from here on, objective.agree is a field


def make(benchmark, *, weight: float = 0.1):
    """Returns training on the source of a benchmark and on the agreement."""
    config = source_only.make(benchmark)
    config.objective.agree = weight
    return config


get_config = arguments.parsed(make)
