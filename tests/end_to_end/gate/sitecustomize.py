"""A gate for trainings: after the epoch GATE_EPOCH they wait until the file GATE exists.

Only trials wait whose name contains GATE_NAME. Each writes a file beside GATE when it has trained the next
epoch and is about to log it.

Python imports this module when it starts, if this folder is on its PYTHONPATH; so do workers.
"""

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

MODULE = "cifar_mlflow.training.fit"


class Finder(MetaPathFinder):
    """Puts the gate into the module as soon as something imports it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.loader
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            vars(module)["train"] = gated(vars(module)["train"])

        vars(spec.loader)["exec_module"] = exec_module
        return spec


def gated(train: Callable[..., object]) -> Callable[..., object]:
    def train_to_the_gate(
        config: Any, *given: Any, on_epoch: Callable[[Any], None], **named: Any
    ) -> object:
        waits = os.environ["GATE_NAME"] in config.name

        def wait_after(checkpoint: Any) -> None:
            beyond = len(checkpoint.history) - int(os.environ["GATE_EPOCH"])
            if waits and beyond == 1:
                Path(f"{os.environ['GATE']} passed by {config.key}").touch()
            try:
                on_epoch(checkpoint)
            finally:  # a search's trial that pauses here waits too
                if waits and beyond == 0:
                    while not os.path.exists(os.environ["GATE"]):
                        time.sleep(0.05)

        return train(config, *given, on_epoch=wait_after, **named)

    return train_to_the_gate


sys.meta_path.insert(0, Finder())
