"""Which classes belong together: what is pasted along with a class, so that objects stay whole.

S4's tables by name; classes that a class set lacks are left out. (Its table of the 13 classes of
CrossCity repeats the numbers of SYNTHIA's 16, where they mean other classes, so that the road
brings buses but no cars: here the names count.)
"""

from collections.abc import Sequence

import numpy as np

from rtda_jax.errors import lookup

_POSTS = ("pole", "traffic light", "traffic sign")
_TWO_WHEELS = ("rider", "motorcycle", "bicycle")

RELATED: dict[str, dict[str, tuple[str, ...]]] = {
    "none": {},
    "gta5": {
        "road": ("terrain", *_TWO_WHEELS, "car", "truck", "bus", "train"),
        "sidewalk": ("terrain", "person"),
        "wall": ("fence",),
        "fence": ("wall",),
        "vegetation": ("terrain",),
        "terrain": ("vegetation",),
        **dict.fromkeys(_POSTS, _POSTS),
        **dict.fromkeys(_TWO_WHEELS, _TWO_WHEELS),
    },
    "synthia": {
        "road": ("person", *_TWO_WHEELS, "car", "bus"),
        "sidewalk": ("person", *_TWO_WHEELS),
        "building": _POSTS,
        **dict.fromkeys(_POSTS, _POSTS),
        **dict.fromkeys(_TWO_WHEELS, _TWO_WHEELS),
    },
}


def table(name: str, *, names: Sequence[str]) -> np.ndarray:
    """Bool [K,K]; row c marks the classes pasted along with class c, itself not among them.

    Args:
      name: a key of `RELATED`.
      names: of the K classes.
    """
    families = lookup(RELATED, name, "mix.related")
    marks = np.zeros((len(names), len(names)), bool)
    for c, owner in enumerate(names):
        for other in families.get(owner, ()):
            if other in names and other != owner:
                marks[c, names.index(other)] = True
    return marks
