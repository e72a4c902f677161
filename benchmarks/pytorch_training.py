"""A training in PyTorch on the real data; benchmarks.training_speed starts it.

It runs where PyTorch is, without the project's dependencies. Warmed up before it is timed, so that no
compilation counts.
"""

from pathlib import Path

import torch

from benchmarks.jobs import Result, answer, peak_megabytes, private_megabytes, timed
from benchmarks.pytorch_trainer import Trainer, deep, parameters
from benchmarks.settings import EVALUATION_BATCH, WARM_UP, Training


def measure(variant: str, setting: Training) -> Result:
    """Train "eager" or "compiled", in a layout: images per second and memory."""
    if setting.threads:
        torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    model = deep()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)  # the fastest
    trainer = Trainer(variant, model, optimizer, setting.precision, setting.batch_size)
    train, validation = (
        (images.contiguous(memory_format=trainer.layout), labels)
        for images, labels in (read(Path(setting.folder), part) for part in ("train", "validation"))
    )
    count = len(train[1])
    # The last batch of an epoch may be smaller, which is compiled too.
    warm_up = WARM_UP * setting.batch_size + count % setting.batch_size
    trainer.train(*(each[:warm_up] for each in train))
    trainer.validate(*validation, EVALUATION_BATCH)

    def work() -> float:
        for _ in range(setting.epochs):
            trainer.train(*train)
            accuracy = trainer.validate(*validation, EVALUATION_BATCH)
        return accuracy

    seconds, accuracy = timed(work)
    return {
        "images_per_second": count * setting.epochs / seconds,
        "peak_mb": peak_megabytes(),
        "private_mb": private_megabytes(),
        "val_accuracy": accuracy,
        "parameters": parameters(model),
        "versions": f"PyTorch {torch.__version__}",
    }


def read(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, uint8 (N, 3, 32, 32), and labels, int64 (N,), that `training_speed` has written."""
    pixels, labels = (
        torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        for path in (folder / f"{part}_images", folder / f"{part}_labels")
    )
    return pixels.view(-1, 32, 32, 3).permute(0, 3, 1, 2), labels.long()


if __name__ == "__main__":
    answer(measure, Training)
