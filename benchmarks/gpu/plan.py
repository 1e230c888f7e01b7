"""Sizes, sections and order of the accelerator benchmark; it imports neither JAX nor PyTorch."""

from typing import Any, NamedTuple


class Sizes(NamedTuple):
    """Sizes of everything that is run; `FULL` gives the published table, `TOY` a rehearsal."""

    crop: tuple[int, int]  # of a training batch
    batch: int
    batch_deeplab: int
    infer: tuple[int, int]  # of the one image
    steps: int  # timed steps, after two that are not timed
    passes: int  # timed inference passes
    matmul: int  # side of the square matrices of the ceiling
    check_crop: tuple[int, int]  # of the step that is compared with the CPU's
    check_batch: int
    train: tuple[tuple[str, str], ...]  # configurations and precisions of the main network's step
    batch_teacher: int  # of the steps that learn from a teacher
    taught: tuple[tuple[str, str], ...]  # configurations and precisions of these steps
    infer_dtypes: tuple[str, ...]
    train_form: str  # of PyTorch, a key of torch_twins.step.FORMS
    infer_forms: tuple[str, ...]


FULL = Sizes(
    crop=(512, 1024),
    batch=8,
    batch_deeplab=2,
    infer=(1024, 2048),
    steps=20,
    passes=50,
    matmul=8192,
    check_crop=(128, 256),
    check_batch=8,
    train=(("fda", "bfloat16"), ("fda", "float32"), ("source_only", "bfloat16")),
    batch_teacher=4,
    taught=(
        ("mic:distance=0,fda=0.01", "bfloat16"),
        ("distill:labels=online,fda=0.01", "bfloat16"),
        ("mic:distance=0,fda=0.01", "float32"),
    ),
    infer_dtypes=("bfloat16", "float32"),
    train_form="compile_amp",
    infer_forms=("compile_amp", "cuda_graphs_amp"),
)
TOY = Sizes(
    crop=(64, 128),
    batch=2,
    batch_deeplab=2,
    infer=(64, 128),
    steps=1,
    passes=1,
    matmul=256,
    check_crop=(64, 128),
    check_batch=2,
    train=(("fda", "float32"), ("source_only", "float32")),  # a CPU takes seconds for bfloat16
    batch_teacher=2,
    taught=(("mic:distance=0,fda=0.01", "float32"),),
    infer_dtypes=("bfloat16",),
    train_form="channels_last",
    infer_forms=("channels_last",),
)
SIZES = {"full": FULL, "toy": TOY}

MODELS = ("bisenet_resnet18", "bisenet_stdc1", "bisenet_lite0", "deeplab_resnet101")
MAIN = MODELS[0]  # whose step is taken apart
TAUGHT = "bisenet_lite0"  # whose steps that learn from a teacher are timed, without a twin


class Program(NamedTuple):
    """One program of ours: its kind, network and precision."""

    job: str  # "train" or "infer"
    model: str
    method: str  # of "train": CONFIG[:ARGUMENTS] of configs/
    dtype: str

    @property
    def name(self) -> str:
        """Returns its name in the results."""
        return " ".join(part for part in (self.job, self.method, self.dtype) if part)


def programs(model: str, sizes: Sizes) -> list[Program]:
    """Returns the programs of a network, the most important first."""
    train = sizes.train if model == MAIN else sizes.train[:1]
    return [
        *(Program("train", model, method, dtype) for method, dtype in train),
        *(Program("infer", model, "", dtype) for dtype in sizes.infer_dtypes),
    ]


def taught_programs(sizes: Sizes) -> list[Program]:
    """Returns the training steps that learn from a teacher, the most important first."""
    return [Program("train", TAUGHT, method, dtype) for method, dtype in sizes.taught]


def main_program(sizes: Sizes) -> Program:
    """Returns the training step that is taken apart."""
    return programs(MAIN, sizes)[0]


class Section(NamedTuple):
    """A child process: a function of `child.SECTIONS` and its network."""

    function: str
    model: str = ""

    @property
    def name(self) -> str:
        """Returns its name in the results."""
        return f"{self.function} {self.model}".strip()


def first(models: list[str]) -> list[Section]:
    """Returns the sections that run at once, before the others: only compilers are timed there.

    Both sides fill their compilation caches, while the CPU's numbers are compared with the GPU's.
    """
    return [
        Section("correctness"),
        Section("ours_compile"),
        *(Section("theirs_compile", model) for model in models),
        Section("deterministic_compile", MAIN),
    ]


def then(models: list[str]) -> list[Section]:
    """Returns the sections that have the machine to themselves, the most important first."""
    rest = [model for model in models if model != MAIN]
    return [
        Section("ours", MAIN),
        Section("theirs", MAIN),
        Section("taught", TAUGHT),
        Section("trace", MAIN),
        Section("parts"),
        Section("feed", MAIN),
        *(Section(side, model) for model in rest for side in ("ours", "theirs")),
        Section("deterministic", MAIN),
    ]


def sizes_of(spec: dict[str, Any]) -> Sizes:
    """Returns the sizes that a child's spec names."""
    return SIZES[spec["sizes"]]
