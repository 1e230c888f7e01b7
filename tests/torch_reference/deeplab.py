from torch import nn

from torch_reference.blocks import Trunk, bilinear


class Dilated(nn.Module):
    def __init__(self, cin, k, summed):
        super().__init__()
        self.summed = summed
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(cin, k, 3, padding=d, dilation=d) for d in (6, 12, 18, 24)
        )

    def forward(self, x):
        return sum(conv(x) for conv in self.conv2d_list[: self.summed])


class DeepLab(Trunk):
    def __init__(self, k, *, multi=False, summed=4):
        super().__init__(101, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), caffe=True)
        self.multi = multi
        self.layer5 = Dilated(1024 if multi else 2048, k, summed)
        if multi:
            self.layer6 = Dilated(2048, k, summed)

    def forward(self, x):
        size = x.shape[2:]
        layer3, layer4 = super().forward(x)[2:]
        head = self.layer6 if self.multi else self.layer5
        outputs = {"logits": bilinear(head(layer4), size, True), "feature": layer4}
        if self.training and self.multi:
            outputs["aux16"] = bilinear(self.layer5(layer3), size, True)
        return outputs


class DeepLabVGG(nn.Module):
    def __init__(self, k, *, summed=4):
        super().__init__()
        layers, cin = [], 3
        for stage, (width, count) in enumerate(
            ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1
        ):
            d = 2 if stage == 5 else 1
            for _ in range(count):
                layers += [nn.Conv2d(cin, width, 3, padding=d, dilation=d), nn.ReLU()]
                cin = width
            if stage <= 3:
                layers.append(nn.MaxPool2d(2, 2))
        for cin in (512, 1024):
            layers += [nn.Conv2d(cin, 1024, 3, padding=4, dilation=4), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = Dilated(1024, k, summed)

    def forward(self, x):
        feature = self.features(x)
        logits = self.classifier(feature)
        return {"logits": bilinear(logits, x.shape[2:], True), "feature": feature}
