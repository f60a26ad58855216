"""bfpsim: simulate embedded accelerators that move block-floating-point data.

Everything users need is here: `import bfpsim as bs`. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bfpsim.arch import Arch, ArchError, dump_arch, load_arch
    from bfpsim.mapping.models import predict
    from bfpsim.mapping.nest import Mapping, MappingError
    from bfpsim.quant.formats import (
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
    from bfpsim.quant.study.accuracy import TopK, top_k
    from bfpsim.quant.study.additivity import check_additivity
    from bfpsim.quant.study.comparison import compare_formats
    from bfpsim.quant.study.datasets import shipped_test_images
    from bfpsim.quant.study.sensitivity import Sensitivity, measure_sensitivity
    from bfpsim.quant.torch.model import Codings, QuantizedModel, quantize_model
    from bfpsim.quant.training.fine_tuning import fine_tune
    from bfpsim.reports.energy import plot_energies
    from bfpsim.reports.files import write_csv
    from bfpsim.reports.roofline import Roof, plot_roofline
    from bfpsim.reports.store.write import write_report
    from bfpsim.reports.sweep import plot_sweep
    from bfpsim.reports.tables import simulation_table, sweep_table, traffic_table, validation_table
    from bfpsim.reports.trace import write_trace
    from bfpsim.reports.workload import host_frame, kinds_frame, workload_frame
    from bfpsim.search.bitwidth.allocation import InfeasibleError
    from bfpsim.search.bitwidth.search import SearchResult, search_network
    from bfpsim.search.bitwidth.target import CostBudget, LossBudget, Tradeoff
    from bfpsim.search.buffers import sweep_capacity
    from bfpsim.search.curve import traffic_curves
    from bfpsim.search.mappings import map_network
    from bfpsim.search.rescore import find_mapping, rescored
    from bfpsim.search.store import StoreError
    from bfpsim.search.sweep.run import sweep
    from bfpsim.search.sweep.spec import SweepError
    from bfpsim.sim.host import infer
    from bfpsim.sim.inference import calibrate, run_inference
    from bfpsim.sim.result import LayerResult, NetworkResult
    from bfpsim.sim.simulate import simulate, simulate_network
    from bfpsim.sim.validate import validate
    from bfpsim.workloads import (
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
    from bfpsim.workloads.training.shipped import shipped_module

__version__ = "0.1.0"

_HOME = {
    "bfpsim.arch": ("Arch", "ArchError", "dump_arch", "load_arch"),
    "bfpsim.search.curve": ("traffic_curves",),
    "bfpsim.search.mappings": ("map_network",),
    "bfpsim.search.rescore": ("find_mapping", "rescored"),
    "bfpsim.search.sweep.run": ("sweep",),
    "bfpsim.search.sweep.spec": ("SweepError",),
    "bfpsim.search.store": ("StoreError",),
    "bfpsim.mapping.nest": ("Mapping", "MappingError"),
    "bfpsim.mapping.models": ("predict",),
    "bfpsim.quant.formats": (
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
    "bfpsim.quant.study.accuracy": ("TopK", "top_k"),
    "bfpsim.quant.study.additivity": ("check_additivity",),
    "bfpsim.quant.study.comparison": ("compare_formats",),
    "bfpsim.quant.study.datasets": ("shipped_test_images",),
    "bfpsim.quant.training.fine_tuning": ("fine_tune",),
    "bfpsim.quant.torch.model": ("Codings", "QuantizedModel", "quantize_model"),
    "bfpsim.quant.study.sensitivity": ("Sensitivity", "measure_sensitivity"),
    "bfpsim.workloads.training.shipped": ("shipped_module",),
    "bfpsim.reports.energy": ("plot_energies",),
    "bfpsim.reports.files": ("write_csv",),
    "bfpsim.reports.trace": ("write_trace",),
    "bfpsim.reports.roofline": ("Roof", "plot_roofline"),
    "bfpsim.reports.workload": ("host_frame", "kinds_frame", "workload_frame"),
    "bfpsim.reports.store.write": ("write_report",),
    "bfpsim.reports.sweep": ("plot_sweep",),
    "bfpsim.reports.tables": (
        "simulation_table",
        "sweep_table",
        "traffic_table",
        "validation_table",
    ),
    "bfpsim.search.bitwidth.allocation": ("InfeasibleError",),
    "bfpsim.search.bitwidth.search": ("SearchResult", "search_network"),
    "bfpsim.search.bitwidth.target": ("CostBudget", "LossBudget", "Tradeoff"),
    "bfpsim.search.buffers": ("sweep_capacity",),
    "bfpsim.sim.host": ("infer",),
    "bfpsim.sim.inference": ("calibrate", "run_inference"),
    "bfpsim.sim.result": ("LayerResult", "NetworkResult"),
    "bfpsim.sim.simulate": ("simulate", "simulate_network"),
    "bfpsim.sim.validate": ("validate",),
    "bfpsim.workloads": (
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
    "SearchResult",
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
