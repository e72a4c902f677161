"""The trainer with oneDNN on and off, in turn, on the real data.

    python -m benchmarks.onednn --batch_sizes 32 64 128 --epochs 2 --rounds 5

Every measurement starts a process for each core, with one thread each, as a study runs trials. It
covers training and validation, but not the imports. Prints the images per second of all processes
together: median, minimum and maximum, and the ratio of the medians.
"""

import argparse
import os
import statistics

from benchmarks.training_speed import CORES, Variant, measure
from cifar_mlflow.data import load
from cifar_mlflow.training.devices import cpu_instructions

SWITCH = {"on": "1", "off": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{load.load()}; {CORES} cores, {cpu_instructions()}, n = {options.rounds}")
    print("batch  oneDNN    median    least     most")
    trainer = Variant(CORES, 1, "ours")
    for batch_size in options.batch_sizes:
        rates: dict[str, list[float]] = {name: [] for name in SWITCH}
        for _ in range(options.rounds):
            for name, value in SWITCH.items():
                os.environ["TF_ENABLE_ONEDNN_OPTS"] = value  # the processes inherit it
                rates[name].append(measure(trainer, batch_size, options.epochs)["rate"])
        for name, measured in rates.items():
            middle = statistics.median(measured)
            row = f"{batch_size:5}  {name:<6}  {middle:8.0f} {min(measured):8.0f} {max(measured):8.0f}"
            print(row, flush=True)
        ratio = statistics.median(rates["on"]) / statistics.median(rates["off"])
        print(f"{batch_size:5}  on / off {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
