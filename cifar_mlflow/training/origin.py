"""What a trial's result depends on apart from its configuration and data; needs no TensorFlow.

An origin is a mapping of names to text: fingerprints of the network and of its compilation, versions,
and whether oneDNN is on. Trials have it as tags, and checkpoints contain it.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version

Origin = Mapping[str, str]
NETWORK = ("network", "compile_config")  # 12 hexadecimal digits each, see fit.origin
VERSIONS = ("tensorflow_version", "keras_version")
# Trials that differ in these are different. oneDNN's kernels change only the last bits, so they matter
# when a training is resumed, but not when a finished trial is kept.
OF_A_RESULT = NETWORK + VERSIONS
OF_A_CHECKPOINT = (*OF_A_RESULT, "onednn")


def environment() -> Origin:
    """The parts of an origin that depend on this process: the versions, and oneDNN on or off."""
    off = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "").lower() in ("0", "false")  # as TensorFlow
    versions = {name: version(name.removesuffix("_version")) for name in VERSIONS}
    return {**versions, "onednn": "off" if off else "on"}


def differences(earlier: Origin, now: Origin, parts: tuple[str, ...] = OF_A_CHECKPOINT) -> str:
    """What differs, such as ``keras_version 3.14.0, now 3.15.1``; empty if nothing does."""
    return "; ".join(
        f"{part} {earlier.get(part, 'unknown')}, now {now[part]}"
        for part in parts
        if earlier.get(part) != now[part]
    )
