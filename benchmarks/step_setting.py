"""What a step of training is, given as JSON to the processes that measure it.

Imported by the interpreter that has TensorFlow and by the one that has PyTorch, so it needs neither.
"""

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass

WARM_UP = 5  # steps that are not timed: tracing, compilation, the first memory
LEARNING_RATE, MOMENTUM = 0.01, 0.9  # SGD with Nesterov's momentum
WIDTHS = {"airbench93": (64, 128, 128), "airbench94": (64, 256, 256)}  # of PyTorch's networks
PLAIN_DATA = "plain"  # neither augmented nor resized
ACTIVATIONS = {"gelu": "GELU", "silu": "SiLU"}  # by their names in PyTorch


@dataclass(frozen=True)
class Setting:
    architecture: str
    activation: str
    precision: str  # float32 or mixed_bfloat16
    batch_size: int
    steps: int
    threads: int

    @property
    def images(self) -> int:
        return self.batch_size * self.steps


def peak_megabytes() -> float:
    """The largest memory that this process, or the one that started it before, ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def answer(measure: Callable[[str, Setting], dict[str, object]]) -> None:
    """Measure the variant and the setting of the command line; print the result as a line of JSON."""
    variant, setting = sys.argv[1:]
    print(json.dumps(measure(variant, Setting(**json.loads(setting)))))
