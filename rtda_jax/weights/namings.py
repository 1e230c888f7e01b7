"""The public namings of weights: the names in the original PyTorch code of every network.

The namings are called after the repositories and reports that they come from: "brunstein" and
"bartoletti" (both after taveraantonio/BiseNetv1), "stdc_seg" (MichaelFan01/STDC-Seg), "tufl"
(ywher/TUFL), "coincheung" (CoinCheung/BiSeNet) and "adaptsegnet" (wasidennis/AdaptSegNet). A
network without public code uses the names of its own modules, in the naming "rtda_jax".
"""

import dataclasses
import re
from collections.abc import Collection

Rules = tuple[tuple[str, str], ...]

# Entries of a state dict that belong to no network: loss functions, and the counters of profilers
# and of batch normalisation.
_BYSTANDERS = (
    r"^(criterion|criteria|loss|losses)\w*\.|(^|\.)(total_ops|total_params|num_batches_tracked)$"
)
BATCH_COUNT = r"\.num_batches_tracked$"


@dataclasses.dataclass(frozen=True)
class Naming:
    r"""One public naming of the weights of a network, or of its trunk alone.

    A rule rewrites the path of one of our modules, such as "backbone.layer1_0.conv1", into the
    PyTorch path, by a regular expression that must match the whole path. The first match is used.
    Names end in ".weight" and ".bias", and in ".running_mean" and ".running_var" after the path of
    a normalisation.

    Attributes:
      normalisation: the normalisation of images that the weights expect; None if they do not read
        images.
      rules: see above.
      trunk: pattern of the names that belong to the trunk.
      unused: pattern of names that repeat others, or that no segmentation network has.
      auxiliary: pattern of the heads that an inference network does not have.
      requires: a pattern that at least one name in the file must match. With `forbids` it tells
        apart namings whose rules agree.
      forbids: a pattern that no name in the file may match.
      inplace_abn: pattern of the normalisations whose effective scale is |weight| + 1e-5, as in
        the library inplace_abn.
    """

    normalisation: str | None
    rules: Rules
    trunk: str = r"(?!)"
    unused: str = r"(?!)"
    auxiliary: str = r"(?!)"
    requires: str = ""
    forbids: str = r"(?!)"
    inplace_abn: str = r"(?!)"

    def rename(self, module: str) -> str | None:
        """Returns the PyTorch path of one of our modules, or None if the naming lacks it."""
        for pattern, replacement in self.rules:
            match = re.fullmatch(pattern, module)
            if match:
                return match.expand(replacement)
        return None

    def fits(self, names: Collection[str]) -> bool:
        """Returns whether a file with these names can be in this naming."""
        required = any(re.search(self.requires, name) for name in names)
        return required and not any(re.search(self.forbids, name) for name in names)

    def knows_unused(self, name: str) -> bool:
        """Returns whether a name may be in the file without the network having such a weight."""
        known = (self.unused, self.auxiliary, _BYSTANDERS)
        return any(re.search(pattern, name) for pattern in known)


def _resnet(prefix: str) -> Rules:
    return (
        (r"backbone\.(conv1|bn1)", rf"{prefix}\1"),
        (r"backbone\.layer(\d)_(\d+)\.downsample_conv", rf"{prefix}layer\1.\2.downsample.0"),
        (r"backbone\.layer(\d)_(\d+)\.downsample_bn", rf"{prefix}layer\1.\2.downsample.1"),
        (r"backbone\.layer(\d)_(\d+)\.(\w+)", rf"{prefix}layer\1.\2.\3"),
    )


def _stdc(prefix: str) -> Rules:
    return (
        (r"backbone\.features_(\d+)\.avd_conv", rf"{prefix}features.\1.avd_layer.0"),
        (r"backbone\.features_(\d+)\.avd_bn", rf"{prefix}features.\1.avd_layer.1"),
        (r"backbone\.features_(\d+)\.conv(\d)\.(\w+)", rf"{prefix}features.\1.conv_list.\2.\3"),
        (r"backbone\.features_(\d+)\.(conv|bn)", rf"{prefix}features.\1.\2"),
    )


def _vgg(layers: dict[str, int]) -> Rules:
    return tuple((rf"backbone\.{name}", f"features.{index}") for name, index in layers.items())


def _tavera(scales: tuple[int, ...]) -> Rules:
    numbered: Rules = ()
    for i, scale in enumerate(scales, start=1):
        numbered += (
            (rf"arm{scale}\.(\w+)", rf"attention_refinement_module{i}.\1"),
            (rf"aux{scale}", f"supervision{i}"),
        )
    return (
        *_resnet("context_path."),
        *numbered,
        (r"spatial\.conv(\d)\.conv", r"saptial_path.convblock\1.conv1"),
        (r"spatial\.conv(\d)\.bn", r"saptial_path.convblock\1.bn"),
        (r"ffm\.convblock\.conv", "feature_fusion_module.convblock.conv1"),
        (r"ffm\.(.+)", r"feature_fusion_module.\1"),
        (r"classifier", "conv"),
    )


_CONTEXT: Rules = (
    (r"context\.(arm\d+)\.convblock\.(\w+)", r"cp.\1.conv.\2"),
    (r"context\.(arm\d+)\.attention_(\w+)", r"cp.\1.\2_atten"),
    (r"context\.(.+)", r"cp.\1"),
    (r"spatial\.(.+)", r"sp.\1"),
    (r"ffm\.convblock\.(\w+)", r"ffm.convblk.\1"),
    (r"ffm\.(.+)", r"ffm.\1"),
    (r"head\.convblock\.(\w+)", r"conv_out.conv.\1"),
    (r"head\.classifier", r"conv_out.conv_out"),
    (r"aux(\d+)\.convblock\.(\w+)", r"conv_out\1.conv.\2"),
    (r"aux(\d+)\.classifier", r"conv_out\1.conv_out"),
    (r"detail\.convblock\.(\w+)", r"conv_out_sp8.conv.\1"),
    (r"detail\.classifier", r"conv_out_sp8.conv_out"),
)


def _aspp(ours: str, theirs: str) -> Rules:
    return tuple(
        (rf"{ours}\.dilation{dilation}", f"{theirs}.conv2d_list.{i}")
        for i, dilation in enumerate((6, 12, 18, 24))
    )


_VGG_1_TO_4 = {
    **{"conv1_1": 0, "conv1_2": 2, "conv2_1": 5, "conv2_2": 7},
    **{"conv3_1": 10, "conv3_2": 12, "conv3_3": 14, "conv4_1": 17, "conv4_2": 19, "conv4_3": 21},
}
_VGG_5 = {"conv5_1": 24, "conv5_2": 26, "conv5_3": 28}
_VGG_5_TO_7 = {"conv5_1": 23, "conv5_2": 25, "conv5_3": 27, "fc6": 29, "fc7": 31}

_RESNET_TRUNK = r"(conv1|bn1|layer[1-4])\."

TORCHVISION_RESNET = Naming("imagenet", _resnet(""), f"^{_RESNET_TRUNK}", unused=r"^fc\.")
TORCHVISION_VGG = Naming(
    "imagenet",
    _vgg({**_VGG_1_TO_4, **_VGG_5}),
    r"^features\.",
    unused=r"^(classifier|pre_logits|head)\.",
)
CAFFE_VGG = dataclasses.replace(TORCHVISION_VGG, normalisation="caffe_bgr")
STDCNET = Naming(
    "imagenet",
    _stdc(""),
    r"^features\.",
    unused=r"^(x2|x4|x8|x16|x32|conv_last|fc|bn|linear)\.",
)
EFFICIENTNET_LITE = Naming(
    "tensorflow",
    (
        (r"backbone\.stem\.conv", "_conv_stem"),
        (r"backbone\.stem\.bn", "_bn0"),
        (r"backbone\.block(\d+)\.(expand|depthwise|project)\.conv", r"_blocks.\1._\2_conv"),
        (r"backbone\.block(\d+)\.expand\.bn", r"_blocks.\1._bn0"),
        (r"backbone\.block(\d+)\.depthwise\.bn", r"_blocks.\1._bn1"),
        (r"backbone\.block(\d+)\.project\.bn", r"_blocks.\1._bn2"),
    ),
    r"^(_conv_stem|_bn0|_blocks)\.",
    unused=r"^(_conv_head|_bn1|_fc)\.",
)

BRUNSTEIN = Naming(
    "caffe_bgr",
    _tavera((16, 32)),
    rf"^context_path\.{_RESNET_TRUNK}",
    unused=r"^context_path\.features\.",
    auxiliary=r"^supervision\d\.",
)
BARTOLETTI = dataclasses.replace(
    BRUNSTEIN, normalisation="cityscapes_bgr", rules=_tavera((4, 8, 16, 32))
)

STDC_SEG = Naming(
    "imagenet",
    _stdc("cp.backbone.") + _CONTEXT,
    r"^cp\.backbone\.features\.",
    unused=r"^(cp\.backbone\.(x2|x4|x8|x16|x32|conv_last|fc|bn|linear)|conv_out_sp(2|4|16))\.",
    auxiliary=r"^conv_out(16|32|_sp8)\.",
    requires=rf"^ffm\..*{BATCH_COUNT}",
)
STDC_SEG_ABN = dataclasses.replace(STDC_SEG, requires=r"^ffm\.", inplace_abn=r"^(?!cp\.backbone\.)")
TUFL = Naming(
    "imagenet",
    (
        (r"backbone\.(conv1|bn1)", r"cp.resnet.\1"),
        (r"backbone\.layer(\d)_(\d+)\.(\w+)", r"cp.resnet.layer\1.\2.\3"),
        *_CONTEXT,
    ),
    rf"^cp\.resnet\.{_RESNET_TRUNK}",
    auxiliary=r"^conv_out(16|32)\.",
    requires=BATCH_COUNT,
)
TUFL_ABN = dataclasses.replace(TUFL, requires="", inplace_abn=r"^")
COINCHEUNG = dataclasses.replace(
    TUFL, normalisation="cityscapes", rules=_resnet("cp.resnet.") + _CONTEXT, requires=""
)

_DEEPLAB_HEADS = r"^layer[56]\."
DEEPLAB_SINGLE = Naming(
    "caffe_bgr",
    _resnet("") + _aspp("classifier", "layer5"),
    f"^{_RESNET_TRUNK}",
    requires=_DEEPLAB_HEADS,
)
DEEPLAB_MULTI = dataclasses.replace(
    DEEPLAB_SINGLE,
    rules=_resnet("") + _aspp("aux16", "layer5") + _aspp("classifier", "layer6"),
    auxiliary=r"^layer5\.",
)
DEEPLAB_INIT = Naming(
    "caffe_bgr", _resnet("Scale."), rf"^Scale\.{_RESNET_TRUNK}", unused=r"^Scale\.(layer5|fc)"
)
DEEPLAB_VGG = Naming(
    "caffe_bgr",
    _vgg({**_VGG_1_TO_4, **_VGG_5_TO_7}) + _aspp("classifier", "classifier"),
    r"^features\.",
    requires=r"^classifier\.conv2d_list\.",
)
_DEEPLAB_TRUNKS = {
    "torchvision": dataclasses.replace(TORCHVISION_RESNET, requires=r"^fc\."),
    "adaptsegnet_init": DEEPLAB_INIT,
}

FCD = Naming(None, ((r"(conv\d|classifier)", r"\1"),))
FCD_LIGHT_BRUNSTEIN = Naming(
    None, ((r"(\w+)_depthwise", r"\1_1"), (r"(\w+)_pointwise", r"\1_2")), requires=r"^classifier_1"
)
FCD_LIGHT_BARTOLETTI = Naming(
    None,
    ((r"conv(\d)_(\w+)", r"\2\1"), (r"classifier_(\w+)", r"\1c")),
    requires=r"^depthwisec",
)

OURS = Naming(None, ((r"(.+)", r"\1"),), r"^backbone\.", auxiliary=r"^(aux\d+|detail)\.")

# Namings of whole networks; the first is used for export. A network that is not listed here has
# only the naming OURS.
NETWORKS: dict[str, dict[str, Naming]] = {
    "bisenet_resnet18": {"brunstein": BRUNSTEIN},
    "bisenet_resnet101": {"brunstein": BRUNSTEIN},
    "bisenet_mpg_resnet18": {"bartoletti": BARTOLETTI},
    "bisenet_mpg_resnet101": {"bartoletti": BARTOLETTI},
    "bisenet_stdc1": {"stdc_seg": STDC_SEG, "stdc_seg_inplace_abn": STDC_SEG_ABN},
    "bisenet_stdc2": {"stdc_seg": STDC_SEG, "stdc_seg_inplace_abn": STDC_SEG_ABN},
    "bisenet_tufl": {"tufl": TUFL, "tufl_inplace_abn": TUFL_ABN},
    "bisenet_coincheung": {"coincheung": COINCHEUNG},
    "deeplab_resnet101": {"adaptsegnet": DEEPLAB_SINGLE},
    "deeplab_resnet101_multi": {"adaptsegnet": DEEPLAB_MULTI},
    "deeplab_vgg16": {"adaptsegnet": DEEPLAB_VGG},
    "fcd": {"adaptsegnet": FCD},
    "fcd_light": {"brunstein": FCD_LIGHT_BRUNSTEIN, "bartoletti": FCD_LIGHT_BARTOLETTI},
}

# A file with batch counts is from plain batch normalisation or from inplace_abn 1.1, and does not
# say from which. If no scale is negative, the two differ by 1e-5, and the reading of the authors'
# code is used: STDC-Seg has a copy of inplace_abn that is too old for batch counts.
WITH_BATCH_COUNTS = {
    "bisenet_stdc1": "stdc_seg",
    "bisenet_stdc2": "stdc_seg",
    "bisenet_tufl": "tufl_inplace_abn",
}

# Namings of trunks alone, trained on ImageNet.
TRUNKS: dict[str, dict[str, Naming]] = {
    "bisenet_resnet18": {"torchvision": TORCHVISION_RESNET},
    "bisenet_resnet101": {"torchvision": TORCHVISION_RESNET},
    "bisenet_mpg_resnet18": {"torchvision": TORCHVISION_RESNET},
    "bisenet_mpg_resnet101": {"torchvision": TORCHVISION_RESNET},
    "bisenet_stdc1": {"stdcnet": STDCNET},
    "bisenet_stdc2": {"stdcnet": STDCNET},
    "bisenet_tufl": {"torchvision": TORCHVISION_RESNET},
    "bisenet_coincheung": {"torchvision": TORCHVISION_RESNET},
    "bisenet_lite0": {"efficientnet_lite": EFFICIENTNET_LITE},
    "bisenet_lite1": {"efficientnet_lite": EFFICIENTNET_LITE},
    "bisenet_lite2": {"efficientnet_lite": EFFICIENTNET_LITE},
    "deeplab_resnet101": _DEEPLAB_TRUNKS,
    "deeplab_resnet101_multi": _DEEPLAB_TRUNKS,
    "deeplab_vgg16": {"torchvision": TORCHVISION_VGG, "caffe": CAFFE_VGG},
}
