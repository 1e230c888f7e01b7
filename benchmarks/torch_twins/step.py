"""The adversarial training step and the inference pass, as a PyTorch user writes them.

As in the papers' code, source and target go through the network one after the other, each with its
own backward pass, and the discriminator sees the target twice; the first time it is frozen.
"""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from benchmarks.torch_twins import DISCRIMINATORS, NETWORKS

HEADS = {"seg": "logits", "seg_aux16": "aux16", "seg_aux32": "aux32"}
ADVERSARIAL = "adv_output"
SOURCE, TARGET = 0.0, 1.0


class Form(NamedTuple):
    """How PyTorch runs: memory format, torch.compile mode (None: eager), autocast to bfloat16."""

    layout: torch.memory_format
    compiled: str | None = None
    autocast: bool = False


FORMS = {
    "contiguous": Form(torch.contiguous_format),
    "channels_last": Form(torch.channels_last),
    "compile": Form(torch.channels_last, "default"),
    "compile_amp": Form(torch.channels_last, "default", True),
    "cuda_graphs_amp": Form(torch.channels_last, "reduce-overhead", True),
}


def transfer(source: torch.Tensor, target: torch.Tensor, *, beta: float) -> torch.Tensor:
    """Gives float images [B,3,H,W] in [0,255] the target's low-frequency amplitude (FDA)."""
    height, width = source.shape[2:]
    b = int(min(height, width) * beta)
    rows = torch.fft.fftfreq(height, 1 / height, device=source.device).abs() <= b + 0.5
    columns = torch.fft.rfftfreq(width, 1 / width, device=source.device) <= b + 0.5
    spectrum = torch.fft.rfft2(source)
    amplitude, wanted = spectrum.abs(), torch.fft.rfft2(target).abs()
    phase = torch.where(amplitude > 0, spectrum / amplitude, 1.0)
    mixed = torch.where(rows[:, None] & columns, wanted * phase, spectrum)
    return torch.fft.irfft2(mixed, s=(height, width))


def bce(logits: torch.Tensor, domain: float) -> torch.Tensor:
    """Computes the mean cross-entropy of discriminator logits against a domain."""
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


class Twin:
    """Networks, optimizers and step of a `recipe` (benchmarks/recipe.py) on a device."""

    def __init__(self, recipe: dict[str, Any], *, device: str, form: str) -> None:
        self.recipe, self.device, self.form = recipe, device, FORMS[form]
        self.g = NETWORKS[recipe["model"]](recipe["num_classes"]).to(
            device, memory_format=self.form.layout
        )
        self.d = DISCRIMINATORS[recipe["adversary"]](recipe["num_classes"]).to(
            device, memory_format=self.form.layout
        )
        normalisation = recipe["normalisation"]
        column = (1, 3, 1, 1)
        self.mean = torch.tensor(normalisation["mean"], device=device).reshape(column)
        self.scale = 1 / torch.tensor(normalisation["std"], device=device).reshape(column)
        optim = recipe["optim"]
        self.g_optim = torch.optim.SGD(
            self.g.parameters(), optim["g_lr"], optim["g_momentum"],
            weight_decay=optim["g_decay"], fused=True,
        )  # fmt: skip
        self.d_optim = torch.optim.Adam(
            self.d.parameters(), optim["d_lr"], tuple(optim["d_betas"]), fused=True
        )
        self.count = 0
        self.segment, self.judge = self.g, self.d
        if self.form.compiled:
            self.segment = torch.compile(self.g, mode=self.form.compiled)
            self.judge = torch.compile(self.d, mode=self.form.compiled)

    def _autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.form.autocast)

    def _pixels(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(images, device=self.device).permute(0, 3, 1, 2).float()

    def _normalise(self, images: torch.Tensor) -> torch.Tensor:
        order = self.recipe["normalisation"]["order"]
        images = images if order == [0, 1, 2] else images[:, order]
        images = (images - self.mean) * self.scale
        return images.contiguous(memory_format=self.form.layout)

    def _poly(self) -> None:
        optim = self.recipe["optim"]
        decay = max(1 - self.count / optim["steps"], 0.0) ** optim["power"]
        self.g_optim.param_groups[0]["lr"] = optim["g_lr"] * decay
        self.d_optim.param_groups[0]["lr"] = optim["d_lr"] * decay
        self.count += 1

    def step(self, batch: dict[str, np.ndarray]) -> dict[str, float]:
        """Trains both networks once on uint8 images [B,H,W,3] and labels; returns the losses."""
        objective, beta = self.recipe["objective"], self.recipe["fda_beta"]
        source, labels = self._pixels(batch["source_image"]), batch["source_label"]
        labels = torch.as_tensor(labels, device=self.device).long()
        target = self._pixels(batch["target_image"]) if "target_image" in batch else None
        if beta is not None:
            source = transfer(source, target, beta=beta)
        adversarial = ADVERSARIAL in objective

        self._poly()
        self.g.train()
        self.g_optim.zero_grad(set_to_none=True)
        self.d_optim.zero_grad(set_to_none=True)
        self.d.requires_grad_(False)
        with self._autocast():
            outputs = self.segment(self._normalise(source))
            losses = {
                name: functional.cross_entropy(outputs[head].float(), labels, ignore_index=255)
                for name, head in HEADS.items()
                if name in objective
            }
        sum(objective[name] * loss for name, loss in losses.items()).backward()
        if adversarial:
            with self._autocast():
                seen = {"source": functional.softmax(outputs["logits"].detach().float(), 1)}
                outputs = self.segment(self._normalise(target))
                probability = functional.softmax(outputs["logits"].float(), 1)
                losses[ADVERSARIAL] = bce(self.judge(probability).float(), SOURCE)
            (objective[ADVERSARIAL] * losses[ADVERSARIAL]).backward()
            seen["target"] = probability.detach()
            self.d.requires_grad_(True)
            for domain, label in (("source", SOURCE), ("target", TARGET)):
                with self._autocast():
                    loss = bce(self.judge(seen[domain]).float(), label)
                (self.recipe["d_factor"] * loss).backward()
                losses[f"d_output_{domain}"] = loss
            self.d_optim.step()
        self.g_optim.step()
        values = torch.stack([loss.detach() for loss in losses.values()]).tolist()
        return dict(zip(losses, values, strict=True))

    @torch.inference_mode()
    def logits(self, image: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Computes the logits [1,K,H,W] of one image uint8 [H,W,3], on the device."""
        self.g.eval()
        with self._autocast():
            return self.segment(self._normalise(self._pixels(image[None])))["logits"]

    @torch.inference_mode()
    def classes(self, image: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Computes the classes uint8 [H,W] of one image uint8 [H,W,3], on the device."""
        return self.logits(image).argmax(1)[0].to(torch.uint8)
