"""ResNet-18 on an edge accelerator: buffer sizes, one program, models, a trained network.

    python examples/demo.py --out out/demo

About a minute. Writes sweep.csv, buffer_sweep.png, programs.csv, programs.png, validation.csv and
predictions.csv. Exit code 1 if the analytical model and the simulation differ in a single bit.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

import bfpsim as bs

CAPACITIES = ("16 KiB", "32 KiB", "64 KiB", "128 KiB", "256 KiB", "512 KiB")
PROGRAM_CAPACITIES = ("64 KiB", "128 KiB", "256 KiB", "512 KiB", "1 MiB")
FORMATS = bs.LayerFormats.uniform(bs.parse_format("bfp8"))
IMAGES, CALIBRATION_IMAGES = 50, 64
CHECKED_LAYER = "layer2.0.conv2"

console = Console(highlight=False)
if not console.is_terminal:
    console.width = 120


def main() -> int:
    """Run the demo; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the files")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    arch = bs.load_arch("edge-64k")
    wrong = sweep_buffers(arch, out)
    run_programs(arch, out)
    wrong += [*validate_models(arch, out), *run_trained(arch, out)]
    files = "sweep.csv, buffer_sweep.png, programs.csv, programs.png, validation.csv"
    print(f"\nwrote {files}, predictions.csv to {out}")
    for what in wrong:
        print(f"demo: {what}", file=sys.stderr)
    return 1 if wrong else 0


def sweep_buffers(arch: bs.Arch, out: Path) -> list[str]:
    """What each SRAM capacity costs; returns what is wrong."""
    network = bs.load_workload("resnet18")
    with progress("sweeping the SRAM", len(CAPACITIES) * len(network.layers)) as done:
        sweep = bs.sweep_capacity(network, arch, FORMATS, CAPACITIES, done)
    bs.write_csv(sweep, out / "sweep.csv")
    bs.plot_sweep(sweep, out / "buffer_sweep.png")
    console.print(bs.sweep_table(sweep))
    differ = sweep["exact_bits"] != sweep["dram_payload_bits"]
    return [
        f"at {bits} bit of SRAM the exact model and the simulated payload differ"
        for bits in sweep.loc[differ, "capacity_bits"]
    ]


def run_programs(arch: bs.Arch, out: Path) -> None:
    """What it gives to run the whole network as one program: feature maps that stay on chip."""
    network = bs.load_workload("resnet18")
    sweeps = {}
    with progress("one program", 2 * len(PROGRAM_CAPACITIES) * len(network.layers)) as done:
        for layers in ("alone", "program"):
            sweeps[layers] = bs.sweep_capacity(
                network, arch, FORMATS, PROGRAM_CAPACITIES, done, layers=layers
            )
    bs.write_csv(pd.concat(sweeps.values(), ignore_index=True), out / "programs.csv")
    bs.plot_programs(*sweeps.values(), out / "programs.png")
    console.print()
    console.print(bs.programs_table(*sweeps.values()))


def validate_models(arch: bs.Arch, out: Path) -> list[str]:
    """Analytical against simulated data movement, layer by layer; returns what is wrong."""
    network = bs.load_workload("resnet18")
    with progress("validating", len(network.layers)) as done:
        validation = bs.validate(network, arch, FORMATS, progress=done)
    bs.write_csv(validation.to_frame(), out / "validation.csv")
    console.print()
    console.print(bs.validation_table(validation, console.width))
    if validation.agrees:
        console.print("\nThe analytical model equals the simulation bit for bit in every layer.")
    return [
        f"{layer.layer}: the analytical model and the simulation differ"
        for layer in validation.layers
        if not layer.agrees
    ]


def run_trained(arch: bs.Arch, out: Path) -> list[str]:
    """Classify Fashion-MNIST test images on the simulated accelerator; returns what is wrong."""
    network = bs.load_workload("resnet18-fashion")
    weights = bs.shipped_weights("resnet18-fashion")
    pixels, labels = bs.shipped_images("resnet18-fashion")
    pixels, labels = pixels[: IMAGES + CALIBRATION_IMAGES], labels[:IMAGES]
    images, others = np.split(bs.normalise(pixels), [IMAGES])

    tops = bs.calibrate(network, weights, others)
    with progress(f"classifying {IMAGES} images", len(network.layers)) as done:
        simulated = bs.run_inference(
            network, arch, FORMATS, weights, images, tops, progress=done
        ).predictions
    floats = bs.infer(network.batched(IMAGES), weights, images)
    reference = floats[network.nodes[-1].name].reshape(IMAGES, -1).argmax(axis=1)

    predictions = pd.DataFrame(
        {"image": range(IMAGES), "label": labels, "float": reference, "simulated": simulated}
    )
    bs.write_csv(predictions, out / "predictions.csv")
    console.print(
        f"\n{np.sum(simulated == reference)} of {IMAGES} predictions in {FORMATS} equal the "
        f"float32 network's; {np.sum(simulated == labels)} right "
        f"(float32: {np.sum(reference == labels)})."
    )

    layer = next(layer for layer in network.layers if layer.name == CHECKED_LAYER)
    source = next(node for node in network.nodes if node.name == CHECKED_LAYER).inputs[0]
    return check_layer(layer.batched(IMAGES), arch, floats[source], weights[CHECKED_LAYER].weight)


def check_layer(
    layer: bs.ConvLayer, arch: bs.Arch, inputs: np.ndarray, filters: np.ndarray
) -> list[str]:
    """A simulated 3x3 layer against a plain convolution of the same operands, bit for bit.

    The sums of 8-bit BFP products fit the 53 bits of a float64, so NumPy's are exact too.
    """
    stored_inputs = bs.quantize_activation(inputs, FORMATS.I)
    stored_filters = bs.quantize_weight(filters, FORMATS.W)
    mapping = bs.find_mapping(layer, arch, FORMATS)
    result = bs.simulate(layer, arch, mapping, FORMATS, (stored_inputs, stored_filters))

    padded = np.pad(bs.dequantize(stored_inputs), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    sums = np.tensordot(windows, bs.dequantize(stored_filters), axes=((3, 4, 5), (1, 2, 3)))
    expected = bs.dequantize(bs.quantize_activation(sums, FORMATS.O))

    equal = np.sum(result.output == expected)
    console.print(
        f"{equal:,} of {expected.size:,} outputs of {layer.name}, run in {result.steps} tiles, "
        "equal an untiled convolution bit for bit."
    )
    return [] if equal == expected.size else [f"{layer.name}: outputs differ from the reference"]


@contextmanager
def progress(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr if that is a terminal; the callback names what is done."""
    stderr = Console(stderr=True)
    columns = (
        TextColumn(title),
        BarColumn(20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(title, total=total, at="")
        yield lambda name: bar.update(task, advance=1, at=name)


if __name__ == "__main__":
    sys.exit(main())
