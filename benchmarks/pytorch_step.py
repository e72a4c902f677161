"""A step of training in PyTorch: the other side of benchmarks.pytorch_comparison, which starts it.

It runs where PyTorch is, without the project's dependencies.
"""

import torch

from benchmarks.jobs import Result, answer, peak_megabytes, timed
from benchmarks.pytorch_trainer import Trainer, airbench, parameters
from benchmarks.settings import LEARNING_RATE, MOMENTUM, WARM_UP, Step


def measure(variant: str, setting: Step) -> Result:
    """Train on random pixels as "eager" or "compiled", in a layout: images per second and memory."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    model = airbench(setting.architecture, setting.activation)
    optimizer = torch.optim.SGD(
        [each for each in model.parameters() if each.requires_grad],
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        fused=True,  # the fastest
    )
    trainer = Trainer(variant, model, optimizer, setting.precision, setting.batch_size)
    count = max(setting.steps, WARM_UP) * setting.batch_size
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8)
    images, labels = images.contiguous(memory_format=trainer.layout), torch.randint(10, (count,))
    warm_up, timed_part = WARM_UP * setting.batch_size, setting.images
    trainer.train(images[:warm_up], labels[:warm_up])
    seconds, loss = timed(lambda: trainer.train(images[:timed_part], labels[:timed_part]))
    return {
        "images_per_second": setting.images / seconds,
        "peak_mb": peak_megabytes(),
        "loss": loss,
        "parameters": parameters(model),
        "versions": f"PyTorch {torch.__version__}",
    }


if __name__ == "__main__":
    answer(measure, Step)
