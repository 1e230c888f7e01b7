"""Headline numbers as the papers print them; shown beside ours, never mixed with them.

Other data (subsets of hundreds or thousands of images), other lengths of training, often selected
on the labels that are scored: these rows say what was claimed, not what to compare with.
"""

from collections.abc import Sequence
from typing import NamedTuple

from rtda_jax.errors import one_of
from rtda_jax.report.page import Block, Table, Text, row

TITLE = "Published, other data, not comparable"


class Published(NamedTuple):
    """A paper's table.

    Attributes:
      title: whose it is.
      setting: what it was measured on, as far as the paper says.
      benchmarks: ours that have its source, target and classes.
      head: names of the columns.
      rows: as printed; mIoU in percent.
    """

    title: str
    setting: str
    benchmarks: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


_GTA5 = ("gta5_to_cityscapes",)
_CITIES = tuple(f"cityscapes_to_crosscity:{c}" for c in ("rome", "rio", "taipei", "tokyo"))

PUBLISHED = {
    "brunstein": Published(
        "Brunstein et al., Analysis of loss function impact on real-time domain adaptation",
        "GTA5 (500 images) to Cityscapes val; BiSeNet; single runs; the pixel accuracy counts "
        "ignored pixels as wrong",
        _GTA5,
        ("backbone, epochs, discriminator", "CE", "weighted CE", "focal"),
        (
            ("ResNet-18, 50, standard", "16.4", "19.0", "21.0"),
            ("ResNet-18, 100, standard", "17.7", "20.5", "21.7"),
            ("ResNet-101, 50, standard", "22.2", "23.4", "25.9"),
            ("ResNet-101, 100, standard", "23.2", "24.6", "24.5"),
            ("ResNet-101, 50, separable", "", "24.3", ""),
            ("ResNet-101, 100, separable", "", "24.2", ""),
            ("ResNet-18, trained on the target", "39.1", "", ""),
            ("ResNet-101, trained on the target", "45.1", "", ""),
        ),
    ),
    "nikiforos": Published(
        "Nikiforos, Cappello & Macaluso, Real-time domain adaptation",
        "GTA5 (2500 images) to Cityscapes (1572); BiSeNet STDC; single runs; the test images were "
        "also used for validation",
        _GTA5,
        ("method", "mIoU, %"),
        (
            ("source only", "16.2"),
            ("+ augmentation", "22.6"),
            ("adversarial", "26.4"),
            ("FDA, β = 0.01", "26.9"),
            ("FDA, β = 0.05", "25.3"),
            ("FDA, both bands fused (MBT)", "27.5"),
            ("MBT + self-supervised", "23.3"),
            ("trained on the target", "63.4"),
        ),
    ),
    "bartoletti": Published(
        "Bartoletti, Bulfamante & Sciortino, Multiple layer self supervised learning",
        "GTA5 (500 images) to Cityscapes; BiSeNet ResNet-101; single runs",
        _GTA5,
        ("method", "mIoU, %"),
        (
            ("adversarial, FCD", "30.8"),
            ("adversarial, FCD-Light", "30.4"),
            ("FCD, pseudo-labels of one layer", "31.5"),
            ("FCD, of two layers", "31.0"),
            ("FCD, of three layers", "31.3"),
            ("ResNet-18, trained on the target", "55.5"),
            ("ResNet-101, trained on the target", "60.7"),
        ),
    ),
    "thukral": Published(
        "Thukral, Khantwal & Agarwal, Domain adaptation for image segmentation",
        "GTA5 to Cityscapes, SYNTHIA to CamVid; DeepLab; single runs; of 31.2 the nine classes "
        "listed do not give the mean",
        (*_GTA5, "synthia_to_camvid"),
        ("method", "mIoU, %"),
        (
            ("GTA5 to Cityscapes, feature level", "34.86"),
            ("GTA5 to Cityscapes, single level", "38.29"),
            ("GTA5 to Cityscapes, multi level", "42.35"),
            ("SYNTHIA to CamVid, multi level", "31.2"),
        ),
    ),
    "tufl": Published(
        "TUFL, Threshold-adaptive unsupervised focal loss, arXiv 2208.10716",
        "Cityscapes to CrossCity, 13 classes; BiSeNet; 2000 iterations, single and multi scale",
        _CITIES,
        ("city", "single scale", "multi scale"),
        (
            ("Rome", "52.27", "53.35"),
            ("Rio", "56.39", "58.02"),
            ("Taipei", "51.05", "52.15"),
            ("Tokyo", "48.59", "59.70 (as printed; perhaps 49.70)"),
        ),
    ),
}


def section(benchmarks: Sequence[str], named: Sequence[str]) -> list[Block]:
    """Returns the tables of the papers that are named, and of those on the benchmarks' own data.

    Raises:
      ConfigError: a paper is not known.
    """
    papers = {one_of(name, PUBLISHED, "paper") for name in named}
    blocks: list[Block] = []
    for name, paper in PUBLISHED.items():
        if name in papers or set(paper.benchmarks) & set(benchmarks):
            table = Table(paper.head, [row(*cells) for cells in paper.rows])
            blocks += [Text(f"{paper.title}. {paper.setting}."), table]
    text = "Numbers as the papers print them. No number above may be held against one below."
    return [Text(text), *blocks] if blocks else []
