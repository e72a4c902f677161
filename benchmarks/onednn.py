"""The trainer with oneDNN on and off, in turn, on the real data.

    python -m benchmarks.onednn --batch_sizes 32 64 128 --epochs 2 --rounds 5

Every measurement starts a process for each core, with one thread each, as a study runs trials. It
covers training and validation, but neither the imports nor the first epoch. Prints the images per second
of all processes together: median, minimum and maximum, and the ratio of the medians.
"""

import os
import statistics
import sys

from benchmarks import jobs, machine
from benchmarks.machine import CORES
from benchmarks.settings import Training
from benchmarks.tensorflow_training import TRAINER
from cifar_mlflow.data import load
from cifar_mlflow.training.devices import cpu_instructions

MODULE = "benchmarks.tensorflow_training"
SWITCH = {"on": "1", "off": "0"}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--batch_sizes", type=machine.positive, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=machine.positive, default=2)
    parser.add_argument("--rounds", type=machine.positive, default=5)
    options = parser.parse_args()
    print(f"{load.load()}; {CORES} cores, {cpu_instructions()}, n = {options.rounds}")
    print("batch  oneDNN    median    least     most")
    for batch_size in options.batch_sizes:
        setting = Training("float32", batch_size, options.epochs, threads=1)
        rates: dict[str, list[float]] = {name: [] for name in SWITCH}
        for _ in range(options.rounds):
            for name, value in SWITCH.items():
                os.environ["TF_ENABLE_ONEDNN_OPTS"] = value  # the processes inherit it
                each = jobs.measure(sys.executable, MODULE, TRAINER, setting, CORES)
                rates[name].append(sum(result["images_per_second"] for result in each))
        for name, measured in rates.items():
            middle = statistics.median(measured)
            row = f"{batch_size:5}  {name:<6}  {middle:8.0f} {min(measured):8.0f} {max(measured):8.0f}"
            print(row, flush=True)
        ratio = statistics.median(rates["on"]) / statistics.median(rates["off"])
        print(f"{batch_size:5}  on / off {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
