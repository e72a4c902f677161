"""Networks and a trainer in PyTorch, for benchmarks: what to compare the project's trainer with.

It runs where PyTorch is, without the project's dependencies. The networks are written a second time
here, after `cifar_mlflow.architectures`.
"""

import torch
from torch import nn

from benchmarks.settings import ACTIVATIONS, WIDTHS

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def airbench(architecture: str, activation: str) -> nn.Sequential:
    """From pixels in 0..1, (N, 3, 32, 32), to logits (N, 10)."""
    function = getattr(nn, ACTIVATIONS[activation])

    def normalised(width: int) -> list[nn.Module]:
        layer = nn.BatchNorm2d(width, eps=1e-6, momentum=0.4)  # Keras' 0.6 is the share that stays
        layer.weight.requires_grad_(False)  # Keras has no scale here
        return [layer, function()]

    def convolution(inputs: int, width: int) -> nn.Module:
        return nn.Conv2d(inputs, width, 3, padding=1, bias=False)

    whitening = nn.Conv2d(3, 24, 2).requires_grad_(False)
    layers, inputs = [whitening, function()], 24
    for width in WIDTHS[architecture]:
        layers += [convolution(inputs, width), nn.MaxPool2d(2), *normalised(width)]
        layers += [convolution(width, width), *normalised(width)]
        inputs = width
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), nn.Linear(inputs, 10))


def deep() -> nn.Sequential:
    """The paper's third network with relu: from pixels in 0..1, (N, 3, 32, 32), to logits (N, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(4 * 4 * 64, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def parameters(model: nn.Sequential) -> list[int]:
    """How many are trained, and how many a frozen first convolution has."""
    trained = [each.numel() for each in model.parameters() if each.requires_grad]
    frozen = [each.numel() for each in model[0].parameters() if not each.requires_grad]
    return [sum(trained), sum(frozen)]


class Trainer:
    """Trains a network, "eager" or "compiled", in a memory layout, as in "eager channels_last"."""

    def __init__(
        self,
        variant: str,
        model: nn.Sequential,
        optimizer: torch.optim.Optimizer,
        precision: str,
        batch_size: int,
    ) -> None:
        how, layout = variant.split()
        self.layout = LAYOUTS[layout]
        self.optimizer, self.batch_size = optimizer, batch_size
        model.to(memory_format=self.layout)
        reduced = precision != "float32"

        def evaluate(
            pixels: torch.Tensor, labels: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            """The mean loss, and how many images are right: the project's trainer counts both."""
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                logits = model(pixels.float() / 255).float()
            return nn.functional.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

        self.evaluate = torch.compile(evaluate, dynamic=False) if how == "compiled" else evaluate

    def train(self, images: torch.Tensor, labels: torch.Tensor) -> float:
        """One pass over the images, uint8 (N, 3, 32, 32), in random order; gives the mean loss."""
        losses, right = torch.zeros(()), torch.zeros((), dtype=torch.long)
        batches = torch.randperm(len(labels)).split(self.batch_size)
        for index in batches:
            loss, hits = self.evaluate(self.batch(images, index), labels[index])
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses += loss.detach()
            right += hits
        return float(losses) / len(batches)

    def validate(self, images: torch.Tensor, labels: torch.Tensor, batch_size: int) -> float:
        """The share of the images that the network classifies right."""
        right = torch.zeros((), dtype=torch.long)
        with torch.inference_mode():
            for index in torch.arange(len(labels)).split(batch_size):
                right += self.evaluate(self.batch(images, index), labels[index])[1]
        return float(right) / len(labels)

    def batch(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return images[index].contiguous(memory_format=self.layout)
