"""A published CIFAR-10 study of convolutional networks, as an MLflow project."""

import gc
import os

# TensorFlow reads this when it is imported. By itself it switches oneDNN's kernels on only where the CPU
# has AVX-512 VNNI, so that speed and last bits would depend on the machine. Set here because nothing of
# the package can import TensorFlow earlier, in a worker of loky, dask or ray either.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# ONNX Runtime reads this when it is imported. It would write an id of this machine and a file of events.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imports leave a million objects that live as long as the process. If Python looked for garbage among
# them after every 700 (2,000 since Python 3.14), as is its default, imports would take a quarter longer.
gc.set_threshold(20_000)
