"""Accuracy of the shipped networks in every format: ``python -m benchmarks.accuracy --help``.

All 10,000 test images of Fashion-MNIST, calibrated on 200 training images, without and with 1,000
steps more of training. Every result is a line of accuracy.csv as soon as it is there; what is there
is not run again, so that the table survives a stop. ``--table`` prints it.
"""

import argparse
import csv
import time
from pathlib import Path

import torch

from bfpsim.quant.baselines import BASELINES
from bfpsim.quant.formats import INDUSTRY
from bfpsim.quant.study.comparison import TABLE_3, compare_formats, evaluate_original, parse_policy
from bfpsim.quant.study.datasets import FASHION_MNIST, read_idx_dataset
from bfpsim.quant.torch.model import quantize_model
from bfpsim.quant.training.fine_tuning import fine_tune
from bfpsim.workloads.training.fashion import DEBIAN_FOLDER
from bfpsim.workloads.training.shipped import shipped_module

NETWORKS = ("resnet18-fashion", "mobilenetv2-fashion", "googlenet-fashion", "vit-fashion")
POLICIES = tuple(dict.fromkeys((*TABLE_3, "bfp8e3b16", *INDUSTRY, *BASELINES)))
TRAINED = tuple(name for name in TABLE_3 if name != "original")
STEPS, CALIBRATION = 1000, 200
TABLE = Path(__file__).parent / "accuracy.csv"
COLUMNS = (
    "network", "policy", "steps", "images", "top1", "logits_sqnr_db", "weight_width",
    "activation_width",
)  # fmt: skip


def main() -> None:
    """Run what is missing for the networks and policies asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.accuracy", description=__doc__)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--policy", choices=POLICIES, action="append")
    parser.add_argument("--steps", type=int, choices=(0, STEPS), action="append")
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder of IDX files")
    parser.add_argument("--checkpoints", type=Path, help="folder, to go on from after a stop")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    torch.set_num_threads(1)
    images, training = (
        read_idx_dataset(*(options.data / f"{part}-{what}.gz" for what in _FILES), FASHION_MNIST)
        for part in ("t10k", "train")
    )
    for network in options.network or NETWORKS:
        some = training.batch(range(CALIBRATION)).inputs
        model = quantize_model(shipped_module(network), some[:4], None, [some])
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        original = evaluate_original(model, images)
        for steps in options.steps or (0, STEPS):
            for policy in options.policy or (TRAINED if steps else POLICIES):
                if (network, policy, steps) in done() or (steps and policy == "original"):
                    continue
                start = time.perf_counter()
                model.load_state_dict(weights)
                choice = parse_policy(policy, model, some[:100])
                if steps:
                    model.choose(choice, tied=False)
                    checkpoint = options.checkpoints and (
                        options.checkpoints / f"{network}-{policy}.safetensors"
                    )
                    fine_tune(model, training, steps, checkpoint=checkpoint, name=policy)
                row = compare_formats(
                    model, images, {policy: choice}, original=original
                ).accuracy.iloc[0]
                append(network, policy, steps, len(images), row)
                seconds = time.perf_counter() - start
                print(
                    f"{network} {policy} {steps}: {row['top1']:.4f} ({seconds:.0f} s)", flush=True
                )


_FILES = ("images-idx3-ubyte", "labels-idx1-ubyte")


def done() -> set[tuple[str, str, int]]:
    """What the table has."""
    return {(row["network"], row["policy"], int(row["steps"])) for row in rows()}


def rows() -> list[dict[str, str]]:
    """The lines of the table."""
    if not TABLE.exists():
        return []
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def append(network, policy, steps, images, row) -> None:
    """Add a line."""
    new = not TABLE.exists()
    with TABLE.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow((network, policy, steps, images, row["top1"],
                         f"{row['logits_sqnr_db']:.2f}", f"{row['weight_width']:.3f}",
                         f"{row['activation_width']:.3f}"))  # fmt: skip


def table() -> str:
    """Top-1 [%] of each policy on each network, as a Markdown table; +QAT behind the plus."""
    found = {(r["network"], r["policy"], int(r["steps"])): r for r in rows()}
    lines = ["| format | bits W | bits I, O | " + " | ".join(NETWORKS) + " |"]
    lines.append("|---|---|---|" + "---|" * len(NETWORKS))
    for policy in POLICIES:
        own = [found[key] for key in found if key[1] == policy]
        if not own:
            continue
        widths = [_range([float(r[column]) for r in own if r["steps"] == "0"])
                  for column in ("weight_width", "activation_width")]  # fmt: skip
        cells = []
        for network in NETWORKS:
            plain, tuned = (found.get((network, policy, steps)) for steps in (0, STEPS))
            cell = f"{100 * float(plain['top1']):.2f}" if plain else "-"
            cells.append(cell + (f" / {100 * float(tuned['top1']):.2f}" if tuned else ""))
        lines.append(f"| `{policy}` | {' | '.join([*widths, *cells])} |")
    return "\n".join(lines)


def _range(values: list[float]) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    main()
