"""A step of training in PyTorch: the other side of benchmarks.pytorch_comparison, which starts it.

It runs where PyTorch is, without the project's dependencies. The networks are written a second time
here, after `cifar_mlflow.architectures`; the command checks that they have as many parameters.
"""

import time

import torch
from torch import nn

from benchmarks.step_setting import (
    ACTIVATIONS,
    LEARNING_RATE,
    MOMENTUM,
    WARM_UP,
    WIDTHS,
    Setting,
    answer,
    peak_megabytes,
)

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}


def network(architecture: str, activation: str) -> nn.Sequential:
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


def parameters(model: nn.Sequential) -> list[int]:
    """How many are trained, and how many the frozen convolution has."""
    trained = [each.numel() for each in model.parameters() if each.requires_grad]
    return [sum(trained), sum(each.numel() for each in model[0].parameters())]


def measure(variant: str, setting: Setting) -> dict[str, object]:
    """Train on random pixels as "eager" or "compiled", in a layout: images per second and memory."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    how, layout = variant.split()
    order = LAYOUTS[layout]
    model = network(setting.architecture, setting.activation).to(memory_format=order)
    optimizer = torch.optim.SGD(
        [each for each in model.parameters() if each.requires_grad],
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        fused=True,  # the fastest
    )

    def evaluate(pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean loss, and how many images are right: the trainer counts both."""
        reduced = setting.precision != "float32"
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            logits = model(pixels.float() / 255).float()
        return nn.functional.cross_entropy(logits, labels), (logits.argmax(1) == labels).sum()

    if how == "compiled":
        evaluate = torch.compile(evaluate, dynamic=False)

    def train(count: int) -> float:
        """One pass over the first images in random order; gives the mean loss."""
        losses, right = torch.zeros(()), torch.zeros((), dtype=torch.long)
        batches = torch.randperm(count).split(setting.batch_size)
        for index in batches:
            batch = images[index].contiguous(memory_format=order)
            loss, hits = evaluate(batch, labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.detach()
            right += hits
        return float(losses) / len(batches)

    count = max(setting.steps, WARM_UP) * setting.batch_size
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    images, labels = images.contiguous(memory_format=order), torch.randint(10, (count,))
    train(WARM_UP * setting.batch_size)
    began = time.perf_counter()
    loss = train(setting.images)
    seconds = time.perf_counter() - began
    return {
        "images_per_second": setting.images / seconds,
        "peak_mb": peak_megabytes(),
        "loss": loss,
        "parameters": parameters(model),
        "versions": f"PyTorch {torch.__version__}",
    }


if __name__ == "__main__":
    answer(measure)
