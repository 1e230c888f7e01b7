"""The train state: one tree of arrays."""

import functools
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rtda_jax.adapt.adversary import LEVELS, Adversary
from rtda_jax.errors import ConfigError, require
from rtda_jax.models.layers import Network
from rtda_jax.ops.norm import BatchNorm


class TrainState(flax.struct.PyTreeNode):
    """Everything that training changes; networks and optimizers are closed over.

    Attributes:
      step: the number of updates that were made.
      key: the random key of everything that is drawn on the device.
      g_params, g_stats, g_opt: the parameters and running statistics of the segmentation network,
        and its optimizer's state.
      d_params, d_opt: the parameters of the discriminators by level, and their optimizer's state;
        empty without an adversary.
      teacher: the teacher's variables, {"params", "batch_stats"}: a second set of those of the
        segmentation network or of the large one; empty without a teacher.
      memory: what a method keeps between steps, often nothing. `build.initial_state` puts in:
        "theta", float32 [K], the adaptive thresholds, which `consistency.compare` changes at every
        step; absent unless consistency terms have consistency.threshold="adaptive";
        "reference", {"params", "batch_stats"} of the frozen network with which feature_distance
        compares and which `views.reference_features` reads; absent without that term;
        "agreement", float32 [2,K], the averaged areas of `teacher.agreement`; absent unless
        distil terms have teacher.inconsistency;
        "large", see `with_large`, a larger network that is trained as well and that the teacher
        follows; absent without model.large.
    """

    step: jax.Array
    key: jax.Array
    g_params: Any
    g_stats: Any
    g_opt: Any
    d_params: Any
    d_opt: Any
    teacher: Any = flax.struct.field(default_factory=dict)
    memory: Any = flax.struct.field(default_factory=dict)

    @property
    def network(self) -> dict[str, Any]:
        """The variables of the segmentation network, {"params", "batch_stats"}."""
        return {"params": self.g_params, "batch_stats": self.g_stats}

    @property
    def large(self) -> "TrainState":
        """The state of the large network alone, at the same step and with the same key."""
        large = self.memory["large"]
        return self.replace(
            g_params=large["network"]["params"],
            g_stats=large["network"]["batch_stats"],
            g_opt=large["optimizer"],
            d_params={},
            teacher={},
            memory=large["memory"],
        )

    def with_large(self, large: "TrainState") -> "TrainState":
        """Returns the state whose large network has the variables and memory of another state."""
        parts = {"network": large.network, "optimizer": large.g_opt, "memory": large.memory}
        return self.replace(memory={**self.memory, "large": parts})

    @property
    def followed(self) -> dict[str, Any]:
        """The variables that a teacher averages: the large network's if there is one."""
        return self.large.network if "large" in self.memory else self.network


def create_state(
    generator: nn.Module,
    adversary: Adversary,
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    *,
    seed: int,
    size: tuple[int, int],
    memory: Mapping[str, jax.Array],
) -> TrainState:
    """Returns a fresh state whose arrays depend on the seed and the networks alone.

    Args:
      generator: the segmentation network.
      adversary: the discriminators.
      g_tx: the segmentation network's optimizer.
      d_tx: one optimizer for all discriminators.
      seed: the seed of initialisation and of everything random on the device.
      size: the sides (H, W) of a training crop.
      memory: the state's memory before the first step.
    """
    g_key, d_key, step_key = jax.random.split(jax.random.key(seed), 3)
    images = jnp.zeros(sample_shape(size), jnp.float32)
    # Compiled initialisers leave out the networks' outputs, and are taken from the cache.
    variables = jax.jit(lambda key: generator.init(key, images, train=True))(g_key)
    outputs = dict(output_shapes(generator, size=size))

    def discriminators(key: jax.Array) -> dict[str, Any]:
        d_params = {}
        for level, network in adversary.networks.items():
            judged = jax.eval_shape(functools.partial(adversary.read, level, size=size), outputs)
            maps = jnp.zeros(judged.shape, judged.dtype)
            level_key = jax.random.fold_in(key, LEVELS[level].number)
            d_params[level] = network.init(level_key, maps)["params"]
        return d_params

    d_params = jax.jit(discriminators)(d_key)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=step_key,
        g_params=variables["params"],
        g_stats=variables.get("batch_stats", {}),
        g_opt=jax.jit(g_tx.init)(variables["params"]),
        d_params=d_params,
        d_opt=jax.jit(d_tx.init)(d_params),
        memory=dict(memory),
    )


def sample_shape(size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns the shape [2,H,W,3] of images that stand for a batch of crops.

    There are two, because BatchNorm of one image at 1x1 has no variance.
    """
    return (2, *size, 3)


def output_shapes(
    generator: nn.Module, *, size: tuple[int, int]
) -> Mapping[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a segmentation network's named outputs in training.

    Raises:
      ConfigError: as `network_shapes` does.
    """
    return network_shapes(generator, size=size)[0]


@functools.cache
def network_shapes(
    generator: nn.Module, *, size: tuple[int, int]
) -> tuple[Mapping[str, jax.ShapeDtypeStruct], Mapping[str, Any]]:
    """Returns the shapes of a segmentation network's named outputs in training and its variables.

    A large network is traced for seconds, and the stages of an experiment mostly share one.

    Raises:
      ConfigError: a normalisation of the network does not come from `Network.norm_layer`, it has an
        active Dropout, or its outputs have no names.
    """
    images = jax.ShapeDtypeStruct(sample_shape(size), jnp.float32)
    known: set[tuple[str, ...]] = set()

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        require(
            not isinstance(layer, nn.Dropout) or kwargs.get("deterministic", layer.deterministic),
            f"model.name: {type(generator).__name__} has a Dropout, which needs random keys; the "
            "training step gives a network none, so leave it out",
        )
        if isinstance(layer, BatchNorm) and _obeys(layer, generator):
            known.add(layer.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        outputs, variables = jax.eval_shape(
            lambda x: generator.init_with_output(jax.random.key(0), x, train=True), images
        )
    require(
        isinstance(outputs, Mapping),
        f"model.name: {type(generator).__name__} returns {outputs}; expected a mapping from names "
        "to arrays, one of them 'logits'",
    )
    if isinstance(generator, Network):
        statistics = flax.traverse_util.flatten_dict(variables.get("batch_stats", {}))
        for path in sorted({path[:-1] for path in statistics} - known):
            raise ConfigError(
                f"{type(generator).__name__}: the normalisation {'/'.join(path)} does not come "
                "from Network.norm_layer: model.batch_norm would not change it, and devices would "
                "not share its statistics"
            )
    return types.MappingProxyType(outputs), types.MappingProxyType(variables)


def _obeys(layer: BatchNorm, generator: nn.Module) -> bool:
    """Returns whether a normalisation is set as the fields of its network say."""
    if not isinstance(generator, Network):
        return False
    frozen = generator.batch_norm == "frozen"
    return (layer.axis_name, layer.frozen) == (generator.axis_name, frozen)


class NetworkSpec(NamedTuple):
    """A network whose variables are not read yet.

    Attributes:
      module: the network, of any architecture.
      normalisation: the normalisation of the images that it reads.
      size: the sides (H, W) of a training crop, from which its shapes are derived.
    """

    module: nn.Module
    normalisation: str
    size: tuple[int, int]

    def heads(self) -> set[str]:
        """Returns the names of its outputs, except for the feature in front of the classifier."""
        return {*output_shapes(self.module, size=self.size)} - {"feature"}

    def check_size(self, size: tuple[int, int], *, field: str) -> None:
        """Refuses images that are too small for it.

        Raises:
          ConfigError: names the field that has the size.
        """
        if all(side >= trained for side, trained in zip(size, self.size, strict=True)):
            return  # crops of that size were accepted, so that nothing has to be traced
        try:
            output_shapes(self.module, size=size)
        except ConfigError as error:
            raise ConfigError(f"{field}={size}: {error}") from error

    def shapes(self) -> dict[str, Any]:
        """Returns the shapes of its variables, {"params", "batch_stats"}."""
        _, variables = network_shapes(self.module, size=self.size)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    def zeros(self) -> Any:
        """Returns zeros of the shapes of its variables, until those of the stage are read."""
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.shapes())


@functools.cache
def check_one_image(generator: nn.Module, *, size: tuple[int, int]) -> None:
    """Refuses a batch of one image where it leaves a normalisation without any variance.

    Raises:
      ConfigError: names the normalisation.
    """

    def train_on(image: jax.Array) -> Any:
        variables = generator.init(jax.random.key(0), image, train=True)
        alone = generator.clone(axis_name=None)
        return alone.apply(variables, image, train=True, mutable=["batch_stats"])

    try:
        jax.eval_shape(train_on, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))
    except ValueError as error:
        raise ConfigError(str(error)) from error
