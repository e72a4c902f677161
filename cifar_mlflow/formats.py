"""The formats that a model is exported to, and what an exported file says about itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cifar_mlflow.errors import UsageError
from cifar_mlflow.formatting import printable

SUFFIXES = {"onnx": ".onnx", "litert": ".tflite"}
# The names in every exported file.
PIXELS, PROBABILITIES, BATCH = "pixels", "probabilities", "batch"
METADATA_FILE = "metadata.json"  # in a LiteRT file
VALUES = 200_000_000  # at most, of all that a file computes for one image


@dataclass(frozen=True)
class Metadata:
    """What a file in any format says about its model; an empty text is unknown."""

    classes: tuple[str, ...]  # in the order of the outputs
    image_size: int  # side of the square RGB images, in pixels
    data_set: str = ""
    data_digest: str = ""  # SHA-256 of the data that the model was trained on
    model_name: str = ""  # of the registered model
    model_version: str = ""
    model_id: str = ""  # of the logged model
    license: str = ""  # by Hugging Face's name for it

    def as_text(self) -> dict[str, str]:
        """The fields as a file holds them: as text, the classes as a JSON list."""
        classes = json.dumps(self.classes, ensure_ascii=False)
        return {
            name: classes if name == "classes" else str(value) for name, value in vars(self).items()
        }

    @classmethod
    def parse(cls, text: Mapping[str, str]) -> Self:
        """The fields of a file, without control characters; other entries of the file are left out.

        Raises:
            UsageError: the classes or the size of the images are missing or of another type.
        """
        try:
            classes = json.loads(text["classes"])
            size = int(text["image_size"])
        except (KeyError, ValueError, RecursionError):
            classes, size = None, 0
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise UsageError("its metadata has no list of classes and no image_size")
        known = {
            name: printable(text[name])
            for name in cls.__dataclass_fields__
            if name in text and name not in ("classes", "image_size")
        }
        return cls(tuple(map(printable, classes)), size, **known)


def check_values(computed: int) -> None:
    """Raise UsageError if a file computes too many values for an image, as even a tiny one can."""
    if computed > VALUES:
        raise UsageError(f"it computes {computed:,} values for an image; the limit is {VALUES:,}")
