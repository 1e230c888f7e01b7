"""The paired training stream and the evaluation stream: functions of (seed, step).

Importing this module does not import TensorFlow; the first stream does.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import numpy as np

from rtda_jax.data import decode
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.pictures import FILTERS
from rtda_jax.data.pseudo import PseudoLabels
from rtda_jax.data.sampling import Candidates, RareClass
from rtda_jax.errors import ConfigError, DataError, one_of, require
from rtda_jax.tools import environment

if TYPE_CHECKING:  # for annotations only: processes that decode images do not load JAX
    from jax import Array

Tensor = Any
Size = tuple[int, int]
Margins = tuple[int, int, int, int]  # top, bottom, left, right

TARGET_MOVES = ("each", "once")
_FOREVER = np.iinfo(np.int64).max
_PADDING_WARNED = 0.3  # mean share of padding in a crop that is worth a warning


class Batch(TypedDict):
    """One training batch, or one device's share of it: NumPy arrays on the host, JAX arrays in jit.

    B is the number of images per domain, (h, w) the crop, S the number of candidates per image and
    K the number of classes. Labels are classes 0..K-1, and 255 where a pixel is ignored. Which of
    the optional keys are present is fixed for a whole run.

    Keys:
      source_image: uint8 [B,h,w,3] RGB.
      source_label: uint8 [B,h,w].
      source_index: int32 [B], the position of each image in the source data set.
      target_image: uint8 [B,h,w,3] RGB, if the method reads the target.
      target_index: int32 [B], with target_image.
      target_label: uint8 [B,h,w], pseudo-labels, never annotations; if the method reads them.
      target_border: uint8 [B,h,w], 255 in the margins of the target's images and 0 inside of them;
        if there are margins (`target_margins`).
      candidate_images: uint8 [B,S,h,w,3] RGB, source crops that may be pasted (long-tail pasting).
      candidate_labels: uint8 [B,S,h,w], with candidate_images; 255 everywhere if there is none.
      candidate_classes: uint8 [B,S], the class for which each candidate was drawn; 255 for none.
    """

    source_image: "Array"
    source_label: "Array"
    source_index: "Array"
    target_image: NotRequired["Array"]
    target_index: NotRequired["Array"]
    target_label: NotRequired["Array"]
    target_border: NotRequired["Array"]
    candidate_images: NotRequired["Array"]
    candidate_labels: NotRequired["Array"]
    candidate_classes: NotRequired["Array"]


@dataclasses.dataclass(frozen=True)
class Frame:
    """The size, crop and resizing of a domain's images.

    Attributes:
      size: (H, W) before zoom and crop; None keeps the files' size.
      crop: (h, w) of the batch; None means the whole image.
      resize: how images are resized, a key of `pictures.FILTERS`.
    """

    size: Size | None = None
    crop: Size | None = None
    resize: str = "bilinear"


@dataclasses.dataclass(frozen=True)
class StreamOptions:
    """The fields of a configuration that decide which images are read, and how.

    Attributes:
      rare_class: the temperature of rare class sampling, such as 0.01; None samples uniformly.
      rare_min_pixels: the least number of pixels of a class in the label file of an image that is
        drawn for it; a crop shows the class with more than half as many. DAFormer: 3000, for crops
        of 512x512.
      rare_crops: the largest number of crops that are drawn from such an image until one shows the
        class. With 1, any crop is used; DAFormer's code draws 11.
      target_margins: the margins at the top, bottom, left and right of the target's images that get
        no pseudo-labels of the teacher, in pixels of `benchmark.size`. HRDA: 30, 240, 30, 30 of
        1024x2048. They follow the image through zoom and crop, whereas `teacher.borders` are the
        borders of every crop.
      cache_gib: the GiB of decoded images that each domain may keep in memory.
      threads: the threads of the input pipeline, 0 for one per core that the process may use; the
        data do not depend on it.
    """

    rare_class: float | None = None
    rare_min_pixels: int = 1
    rare_crops: int = 1
    target_margins: Margins = (0, 0, 0, 0)
    cache_gib: float = 0.0
    threads: int = 0

    def __post_init__(self) -> None:
        rare = self.rare_class
        require(rare is None or rare > 0, f"rare_class must be above 0, got {rare}")
        for name in ("rare_min_pixels", "rare_crops"):
            number = getattr(self, name)
            require(number >= 1, f"{name} must be at least 1, got {number}")
        margins = self.target_margins
        valid = len(margins) == 4 and min(margins) >= 0
        require(valid, f"target_margins must be 4 numbers of pixels from 0, got {margins}")
        require(self.cache_gib >= 0, f"cache_gib must be at least 0, got {self.cache_gib:g}")
        require(self.threads >= 0, f"threads must be at least 0, got {self.threads}")


@dataclasses.dataclass(frozen=True)
class MoveOptions:
    """The fields of the section `augment` that move image and label together, on the host.

    Attributes:
      flip: whether half of the images are mirrored.
      scale: range of the random zoom before the crop.
      target_moves: mirror, zoom and crop of the target are drawn for "each" image, or "once" for
        the whole run, as TUFL's released code does.
    """

    flip: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    target_moves: str = "each"

    def __post_init__(self) -> None:
        valid = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        require(valid, f"augment.scale must be a range (low, high) above 0, got {self.scale}")
        one_of(self.target_moves, TARGET_MOVES, "augment.target_moves")

    @property
    def zooms(self) -> bool:
        """Whether images are zoomed at random."""
        return self.scale != (1.0, 1.0)


def train_stream(
    source: Dataset,
    target: Dataset | None = None,
    *,
    seed: int,
    batch_size: int,
    frame: Frame = Frame(),
    source_frame: Frame | None = None,
    moves: MoveOptions = MoveOptions(),
    options: StreamOptions = StreamOptions(),
    pseudo_labels: PseudoLabels | None = None,
    rare: RareClass | None = None,
    candidates: Candidates | None = None,
    start_step: int = 0,
    prefetch: int = 2,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Returns endless batches; that of step n depends only on (seed, n), never on the threads.

    Every epoch is a permutation of the set, and both domains are drawn independently. Image and
    label are moved together: they are resized to the size of the frame times a random factor (with
    antialiasing; labels to the nearest pixel), cropped at random, and mirrored half of the time. A
    source image that is smaller than the crop is padded with black, which its label ignores. A
    target image is never padded, because every loss on the target would read the black: its zoom
    is at least the smallest one that covers the crop.

    Args:
      source: the labelled set.
      target: the target set; its labels are never opened.
      seed, start_step: the first batch is that of step `start_step`, counted from 0.
      batch_size: images per domain over all processes.
      frame: size, crop and resizing of the images.
      source_frame: those of the source, if they are others.
      moves: zoom and mirror.
      options: margins of the target, cache and threads. Its fields on rare classes describe `rare`
        and are not read here.
      pseudo_labels: pseudo-labels of the target's images, which are moved with the images.
      rare: draws source examples by the classes that they show instead of in epochs, and draws
        crops until one shows the class.
      candidates: offers further source crops for long-tail class pasting.
      prefetch: how many batches are prepared in advance; with `options.threads` it bounds the
        memory.
      process_index, process_count: this process yields its share of every batch.

    Raises:
      DataError: immediately, for sets and arguments that cannot be used; while iterating, for a
        file that cannot be read.
      ConfigError: `resize` is unknown, or the margins leave nothing of the target.
    """
    sets = {"source": source} | ({} if target is None else {"target": target.unlabelled()})
    frames = {"source": source_frame or frame, "target": frame}
    _check_sets(sets, pseudo_labels, rare)
    if batch_size % process_count:
        raise DataError(f"batch_size {batch_size} is not divisible by {process_count} processes")
    for domain in sets:
        one_of(frames[domain].resize, FILTERS, "resize")
        check_sizes(frames[domain], moves.scale)
    if candidates is not None:
        check_candidates(frames["source"])
    margins = options.target_margins
    if any(margins):
        check_margins(margins, size=None if target is None else frame.size)
    share = batch_size // process_count
    threads = options.threads or environment.cores()

    from rtda_jax.data import geometry, pipeline

    least = {"source": None, "target": frame.crop}
    border = None
    if frame.size is not None and any(margins):
        border = geometry.border(frame.size, margins)
    pairs = pipeline.Pairs(
        seed=seed,
        examples={
            domain: pipeline.Examples(
                dataset,
                # The cache holds images at their size, unless a random zoom starts from the files'.
                size=frames[domain].size if options.cache_gib and not moves.zooms else None,
                resize=frames[domain].resize,
                limit=int(options.cache_gib * 2**30),
            )
            for domain, dataset in sets.items()
        },
        moves={
            domain: geometry.Moves(
                **dataclasses.asdict(frames[domain]),
                flip=moves.flip,
                scale=moves.scale,
                at_least=least[domain],
            )
            for domain in sets
        },
        fixed_target=moves.target_moves == "once",
        border=border,
        pseudo_labels=pseudo_labels,
        rare=rare,
        candidates=candidates,
    )

    def element(count: Tensor) -> dict[str, Tensor]:
        # This process makes `share` consecutive images of every batch.
        return pairs.example((count // share) * batch_size + process_index * share + count % share)

    def diagnose(step: int) -> None:
        base = step * batch_size + process_index * share
        for position in range(base, base + share):
            pairs.diagnose(position)

    graph = pipeline.tf.data.Dataset.range(start_step * share, _FOREVER)
    graph = pipeline.mapped(graph, element, threads=threads)
    graph = graph.batch(share, drop_remainder=True).prefetch(prefetch)
    batches = pipeline.arrays(graph, diagnose, start=start_step, threads=threads)
    return cast("Iterator[Batch]", batches)


def eval_stream(
    dataset: Dataset,
    *,
    size: Size | None = None,
    resize: str = "bilinear",
    order: Sequence[int] | None = None,
    threads: int | None = None,
    prefetch: int = 4,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yields every example once, in order and one at a time; or those of `order`.

    Args:
      dataset: the data set.
      size: (H, W) that images are resized to; None keeps the files' size.
      resize: how images are resized, a key of `pictures.FILTERS`.
      order: the positions of the examples.
      threads, prefetch, process_index, process_count: see `train_stream`.

    Yields:
      image uint8 [h,w,3]; label uint8 [H,W] in classes at the label file's own size, if the set has
      labels; key; index.

    Raises:
      DataError: naming the file that cannot be read.
    """
    from rtda_jax.data import geometry, pipeline

    threads = threads or environment.cores()
    chosen = np.asarray(range(len(dataset)) if order is None else order, np.int64)
    chosen = chosen[process_index::process_count]
    examples = pipeline.Examples(dataset)

    def element(index: Tensor) -> dict[str, Tensor]:
        image, label = examples(index)
        image = image if size is None else geometry.resized(image, size, resize=resize)
        return {"image": image, "index": index} | ({} if label is None else {"label": label})

    graph = pipeline.tf.data.Dataset.from_tensor_slices(chosen)
    graph = pipeline.mapped(graph, element, threads=threads).prefetch(prefetch)

    def diagnose(number: int) -> None:
        with decode.remedied(dataset):
            decode.examine(dataset, int(chosen[number]))

    for example in pipeline.arrays(graph, diagnose, start=0, threads=threads):
        index = int(example["index"])
        yield {**example, "index": index, "key": dataset.keys[index]}


def check_sizes(frame: Frame, scale: tuple[float, float]) -> None:
    """Refuses sizes, crops and zooms that do not fit together.

    Raises:
      DataError: a zoom without a crop, or a crop that neither `size` nor the largest zoom fills.
    """
    size, crop = frame.size, frame.crop
    if size is None and crop is None and scale != (1.0, 1.0):
        raise DataError("a random scale needs a crop: images of one batch must have one size")
    if size is not None and crop is not None:
        largest = tuple(round(side * max(scale[1], 1.0)) for side in size)
        if any(c > s for c, s in zip(crop, largest, strict=True)):
            raise DataError(
                f"the crop {crop[0]}x{crop[1]} is larger than the images at their largest, "
                f"{largest[0]}x{largest[1]}: all of them would be padded with black; raise "
                "benchmark.size or lower benchmark.crop"
            )


def check_candidates(frame: Frame) -> None:
    """Refuses images from which no candidates for pasting can be cropped.

    Raises:
      DataError: the frame has no size, or no crop within it.
    """
    size, crop = frame.size, frame.crop
    if size is None or crop is None or np.any(np.less(size, crop)):
        raise DataError("candidates need a size and a crop within it")


def check_margins(margins: Margins, *, size: Size | None) -> None:
    """Refuses margins if no target images are read, or if nothing of the images would remain.

    Args:
      margins: top, bottom, left, right, not all of them 0.
      size: (H, W) of the target's images before the crop; None if none are read at a known size.

    Raises:
      ConfigError: names the margins.
    """
    if size is None:
        raise ConfigError(f"target_margins {margins}: no target images of one size are read")
    top, bottom, left, right = margins
    require(
        top + bottom < size[0] and left + right < size[1],
        f"target_margins {margins} leave nothing of images of {size[0]}x{size[1]} pixels",
    )


def padded_share(size: Size, crop: Size, scale: tuple[float, float]) -> float:
    """Returns the mean share of a crop that is padding, over the uniform range of zooms."""
    factors = scale[0] + (scale[1] - scale[0]) * (np.arange(200) + 0.5) / 200
    height, width = (np.minimum(factors * s, c) for s, c in zip(size, crop, strict=True))
    return float(1 - (height * width).mean() / (crop[0] * crop[1]))


def padding(size: Size, crop: Size, scale: tuple[float, float]) -> list[str]:
    """Returns a sentence about the padding of source crops; none if there is no padding."""
    mean = padded_share(size, crop, scale)
    most = padded_share(size, crop, (scale[0], scale[0]))
    if mean < 0.005:
        return []
    return [
        f"{'warning: ' if mean > _PADDING_WARNED else ''}zoomed by {scale[0]:g} to {scale[1]:g}, "
        f"a source image of {size[0]}x{size[1]} fills {1 - mean:.0%} of the crop "
        f"{crop[0]}x{crop[1]} on average and {1 - most:.0%} at least; the rest is black and ignored"
    ]


def _check_sets(
    sets: Mapping[str, Dataset], pseudo_labels: PseudoLabels | None, rare: RareClass | None
) -> None:
    source, target = sets["source"], sets.get("target")
    if source.labelling is None:
        raise DataError(f"{source.name}: has no labels to train on")
    for dataset in sets.values():
        if not len(dataset):
            raise DataError(f"{dataset.name}: no examples")
    if pseudo_labels is not None and (target is None or tuple(target.keys) != pseudo_labels.keys):
        raise DataError(f"{pseudo_labels.folder}: pseudo-labels of other images than the target's")
    expected = (len(source), len(source.classes))
    if rare is not None and rare.counts.shape != expected:
        raise DataError(f"{source.name}: class counts are {rare.counts.shape}, expected {expected}")
