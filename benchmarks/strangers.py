"""Networks of public packages from their files to outputs: `python -m benchmarks.strangers FOLDER`.

FOLDER holds wheels of packages that ship trained ONNX files, as `pip download --no-deps` leaves
them: magika, rapidocr-onnxruntime and silero-vad. Each network's outputs in floats beside ONNX
Runtime's (its optimiser off), with quantised operands, and one whole on the simulated array.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

import bfpsim as bs

FORMATS = ("bfp16", "bfp8", "mxint8")

# Package -> file, and shapes or values of its inputs.
NETWORKS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("magika", "models/standard_v3_3/model.onnx", {"bytes": (1, 2048)}),
    ("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    ("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 96)}),
    (
        "silero_vad",
        "data/silero_vad_16k_op15.onnx",
        {"input": (1, 576), "state": (2, 1, 128), "sr": np.array(16000)},
    ),
)
WHOLE = "silero_vad_16k_op15.onnx"  # its LSTM's products are on the array, too


def main() -> None:
    """Print what each network gives."""
    with tempfile.TemporaryDirectory() as scratch:
        for package, name, shapes in NETWORKS:
            for wheel in sorted(Path(sys.argv[1]).glob(f"{package}-*.whl")):
                with zipfile.ZipFile(wheel) as packed:
                    path = Path(packed.extract(f"{package}/{name}", scratch))
                for line in lines(path, shapes):
                    print(line, flush=True)


def lines(path: Path, shapes: Mapping[str, Any]) -> Iterator[str]:
    """Yield what one network gives, line by line."""
    start = time.process_time()
    graph = bs.load_graph(path, shapes=shapes)
    network = graph.network
    yield (
        f"{path.name}: {len(network.layers)} layers, {network.macs:,} multiply-accumulates and "
        f"{network.host_macs:,} within other operators; imported in "
        f"{time.process_time() - start:.2f} s"
    )
    draw = np.random.default_rng(0)
    inputs = {
        name: (
            draw.normal(size=own.shape) * 0.3
            if own.dtype.kind == "f"
            else draw.integers(256, size=own.shape)
        ).astype(own.dtype)
        for name, own in graph.inputs.items()
    }
    values = {name: each for name, each in shapes.items() if isinstance(each, np.ndarray)}
    expected = runtime(path, inputs | values)
    start = time.process_time()
    found = bs.infer(graph, None, inputs)
    seconds = time.process_time() - start
    difference = max(
        float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in graph.outputs
    )
    yield f"  floats: {difference:.1e} of the largest value off ONNX Runtime's, in {seconds:.2f} s"
    first = graph.outputs[0]
    tops = bs.calibrate(graph, None, inputs)
    for name in FORMATS:
        try:
            made = bs.infer_quantised(graph, None, inputs, name, tops)
        except bs.FormatError as error:
            yield f"  {name}: {error}"
            continue
        yield f"  {name}: {sqnr(expected[first], made[first]):.1f} dB"
    if path.name == WHOLE:
        start = time.process_time()
        run = bs.run_inference(graph, "edge-64k", "bfp16", None, inputs, tops)
        yield (
            f"  whole on edge-64k in bfp16: {sqnr(expected[first], run.outputs):.1f} dB, "
            f"{len(run.result.layers)} layers, those of the LSTM among them, "
            f"{run.result.cycles:,} cycles, in {time.process_time() - start:.1f} s"
        )


def runtime(path: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return ONNX Runtime's outputs by name."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    kinds = {each.name for each in session.get_inputs()}
    given = {name: value for name, value in inputs.items() if name in kinds}
    return dict(zip(names, session.run(names, given), strict=True))


def sqnr(exact: NDArray[Any], other: NDArray[Any]) -> float:
    """Return the signal over the error [dB]."""
    one, error = exact.astype(np.float64), other.astype(np.float64) - exact
    return float(10 * np.log10((one * one).sum() / max((error * error).sum(), 1e-300)))


if __name__ == "__main__":
    main()
