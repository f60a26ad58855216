"""bfpsim: simulate embedded accelerators that move block-floating-point data.

Everything users need is here: `import bfpsim as bs`. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arch import Arch, ArchError, dump_arch, load_arch
    from mapping.nest import Mapping, MappingError
    from mapping.predict import predict
    from quant import (
        BFP,
        FormatError,
        LayerFormats,
        Plain,
        Rounding,
        dequantize,
        pack,
        parse_format,
        quantize_activation,
        quantize_weight,
        unpack,
    )
    from quant.accuracy import TopK, top_k
    from quant.additivity import check_additivity
    from quant.comparison import compare_formats
    from quant.datasets import shipped_test_images
    from quant.fine_tuning import fine_tune
    from quant.model import Codings, QuantizedModel, quantize_model
    from quant.sensitivity import Sensitivity, measure_sensitivity
    from reports.energy import plot_energies
    from reports.files import write_csv
    from reports.roofline import Roof, plot_roofline
    from reports.store.write import write_report
    from reports.sweep import plot_sweep
    from reports.tables import simulation_table, sweep_table, traffic_table, validation_table
    from reports.trace import write_trace
    from reports.workload import host_frame, kinds_frame, workload_frame
    from search.bitwidth.allocation import InfeasibleError
    from search.bitwidth.network import search_network
    from search.bitwidth.search import Searched
    from search.bitwidth.target import CostBudget, LossBudget, Tradeoff
    from search.buffers import sweep_capacity
    from search.curve import traffic_curves
    from search.mappings import map_network
    from search.rescore import find_mapping, rescored
    from search.store import StoreError
    from search.sweep.run import sweep
    from search.sweep.spec import SweepError
    from sim.host import infer
    from sim.inference import calibrate, run_inference
    from sim.result import LayerResult, NetworkResult
    from sim.simulate import simulate, simulate_network
    from sim.validate import validate
    from workloads import (
        ConvLayer,
        Network,
        NetworkBuilder,
        WorkloadError,
        load_weights,
        load_workload,
        normalise,
        save_workload,
        shipped_images,
        shipped_weights,
    )
    from workloads.training.shipped import shipped_module

__version__ = "0.1.0"

_HOME = {
    "arch": ("Arch", "ArchError", "dump_arch", "load_arch"),
    "search.curve": ("traffic_curves",),
    "search.mappings": ("map_network",),
    "search.rescore": ("find_mapping", "rescored"),
    "search.sweep.run": ("sweep",),
    "search.sweep.spec": ("SweepError",),
    "search.store": ("StoreError",),
    "mapping.nest": ("Mapping", "MappingError"),
    "mapping.predict": ("predict",),
    "quant": (
        "BFP",
        "FormatError",
        "LayerFormats",
        "Plain",
        "Rounding",
        "dequantize",
        "pack",
        "parse_format",
        "quantize_activation",
        "quantize_weight",
        "unpack",
    ),
    "quant.accuracy": ("TopK", "top_k"),
    "quant.additivity": ("check_additivity",),
    "quant.comparison": ("compare_formats",),
    "quant.datasets": ("shipped_test_images",),
    "quant.fine_tuning": ("fine_tune",),
    "quant.model": ("Codings", "QuantizedModel", "quantize_model"),
    "quant.sensitivity": ("Sensitivity", "measure_sensitivity"),
    "workloads.training.shipped": ("shipped_module",),
    "reports.energy": ("plot_energies",),
    "reports.files": ("write_csv",),
    "reports.trace": ("write_trace",),
    "reports.roofline": ("Roof", "plot_roofline"),
    "reports.workload": ("host_frame", "kinds_frame", "workload_frame"),
    "reports.store.write": ("write_report",),
    "reports.sweep": ("plot_sweep",),
    "reports.tables": ("simulation_table", "sweep_table", "traffic_table", "validation_table"),
    "search.bitwidth.allocation": ("InfeasibleError",),
    "search.bitwidth.network": ("search_network",),
    "search.bitwidth.search": ("Searched",),
    "search.bitwidth.target": ("CostBudget", "LossBudget", "Tradeoff"),
    "search.buffers": ("sweep_capacity",),
    "sim.host": ("infer",),
    "sim.inference": ("calibrate", "run_inference"),
    "sim.result": ("LayerResult", "NetworkResult"),
    "sim.simulate": ("simulate", "simulate_network"),
    "sim.validate": ("validate",),
    "workloads": (
        "ConvLayer",
        "Network",
        "NetworkBuilder",
        "WorkloadError",
        "load_weights",
        "load_workload",
        "normalise",
        "save_workload",
        "shipped_images",
        "shipped_weights",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BFP",
    "Arch",
    "ArchError",
    "Codings",
    "ConvLayer",
    "CostBudget",
    "FormatError",
    "InfeasibleError",
    "LayerFormats",
    "LayerResult",
    "LossBudget",
    "Mapping",
    "MappingError",
    "Network",
    "NetworkBuilder",
    "NetworkResult",
    "Plain",
    "QuantizedModel",
    "Roof",
    "Rounding",
    "Searched",
    "Sensitivity",
    "StoreError",
    "SweepError",
    "TopK",
    "Tradeoff",
    "WorkloadError",
    "calibrate",
    "check_additivity",
    "compare_formats",
    "dequantize",
    "dump_arch",
    "find_mapping",
    "fine_tune",
    "host_frame",
    "infer",
    "kinds_frame",
    "load_arch",
    "load_weights",
    "load_workload",
    "map_network",
    "measure_sensitivity",
    "normalise",
    "pack",
    "parse_format",
    "plot_energies",
    "plot_roofline",
    "plot_sweep",
    "predict",
    "quantize_activation",
    "quantize_model",
    "quantize_weight",
    "rescored",
    "run_inference",
    "save_workload",
    "search_network",
    "shipped_images",
    "shipped_module",
    "shipped_test_images",
    "shipped_weights",
    "simulate",
    "simulate_network",
    "simulation_table",
    "sweep",
    "sweep_capacity",
    "sweep_table",
    "top_k",
    "traffic_curves",
    "traffic_table",
    "unpack",
    "validate",
    "validation_table",
    "workload_frame",
    "write_csv",
    "write_report",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name when the name is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bfpsim' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
