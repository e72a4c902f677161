"""What a step and a training are, for the processes that measure them (see `jobs`).

Imported by the interpreter that has TensorFlow and by the one that has PyTorch, so it needs neither.
"""

from dataclasses import dataclass

WARM_UP = 5  # steps that are not timed: tracing, compilation, the first memory
LEARNING_RATE, MOMENTUM = 0.01, 0.9  # SGD with Nesterov's momentum
WIDTHS = {"airbench93": (64, 128, 128), "airbench94": (64, 256, 256)}  # of PyTorch's networks
PLAIN_DATA = "plain"  # neither augmented nor resized
ACTIVATIONS = {"gelu": "GELU", "silu": "SiLU"}  # by their names in PyTorch
EVALUATION_BATCH = 500  # as in `training.batches`


@dataclass(frozen=True)
class Step:
    """A step of training, on random pixels."""

    architecture: str
    activation: str
    precision: str  # float32 or mixed_bfloat16
    batch_size: int
    steps: int
    threads: int

    @property
    def images(self) -> int:
        return self.batch_size * self.steps


@dataclass(frozen=True)
class Training:
    """A training of the paper's third network with relu and adam, on the real data."""

    precision: str  # float32 or mixed_bfloat16
    batch_size: int
    epochs: int
    threads: int | None  # None leaves it to the library
    folder: str = ""  # for PyTorch: of the arrays, see `training_speed.write_arrays`
