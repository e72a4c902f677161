"""What a trial's result depends on besides its configuration and its data; without TensorFlow.

An origin is text by name: the fingerprints of the network and of how it is compiled, the versions, and
whether oneDNN is on. Trials have it as tags, and checkpoints carry it.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version

Origin = Mapping[str, str]
NETWORK = ("network", "compile_config")  # 12 hexadecimal digits each, see training.origin
VERSIONS = ("tensorflow_version", "keras_version")
# Two trials that differ in these are not the same. oneDNN's kernels differ in the last bits alone, so
# they matter where one training goes on from another, and not where a finished one is kept.
OF_A_RESULT = NETWORK + VERSIONS
OF_A_CHECKPOINT = (*OF_A_RESULT, "onednn")


def environment() -> Origin:
    """The parts of an origin that are this process's: the versions, and oneDNN on or off."""
    off = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower() in ("0", "false")  # as TensorFlow
    versions = {name: version(name.removesuffix("_version")) for name in VERSIONS}
    return {**versions, "onednn": "off" if off else "on"}


def differences(earlier: Origin, now: Origin, parts: tuple[str, ...] = OF_A_CHECKPOINT) -> str:
    """What differs, such as ``keras_version 3.14.0, now 3.15.1``; empty where nothing does."""
    return "; ".join(
        f"{part} {earlier.get(part, 'unknown')}, now {now[part]}"
        for part in parts
        if earlier.get(part) != now[part]
    )
