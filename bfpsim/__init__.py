"""bfpsim: simulate embedded accelerators that move block-floating-point data.

Everything users need is here: `import bfpsim as bs`. Names load on first use.
"""

from __future__ import annotations

from importlib import import_module
from os.path import isdir, join
from typing import TYPE_CHECKING, Any

from bfpsim.extras import missing_extra

if TYPE_CHECKING:
    from bfpsim.arch import (
        Arch,
        ArchError,
        Axis,
        Buffer,
        DeviceDram,
        Dma,
        Dram,
        InnerLevel,
        Level,
        PEArray,
        Ports,
        Register,
        Registers,
        SplitSram,
        Sram,
        dump_arch,
        load_arch,
    )
    from bfpsim.copies import replace
    from bfpsim.mapping.constraints import Constraints
    from bfpsim.mapping.file import load_mappings, save_mappings
    from bfpsim.mapping.models import predict
    from bfpsim.mapping.nest import Mapping, MappingError
    from bfpsim.quant.formats import (
        BFP,
        MSFP,
        MX,
        NVFP4,
        BFloat16,
        FormatError,
        LayerFormats,
        Plain,
        Rounding,
        ScaleRounding,
        dequantize,
        pack,
        parse_format,
        quantize_activation,
        quantize_weight,
        unpack,
    )
    from bfpsim.quant.mantissa.minifloat import MiniFloat
    from bfpsim.quant.study.accuracy import TopK, top_k
    from bfpsim.quant.study.additivity import check_additivity
    from bfpsim.quant.study.comparison import compare_formats
    from bfpsim.quant.study.datasets import (
        Normalisation,
        read_idx_dataset,
        read_npz_dataset,
        shipped_test_images,
    )
    from bfpsim.quant.study.image_folder import read_image_folder
    from bfpsim.quant.study.sensitivity import Sensitivity, measure_sensitivity
    from bfpsim.quant.torch.model import Codings, QuantizedModel, quantize_model
    from bfpsim.quant.training.fine_tuning import fine_tune
    from bfpsim.reports.capacity import (
        curve_report,
        plot_energies,
        plot_programs,
        plot_sweep,
        programs_table,
        sweep_table,
    )
    from bfpsim.reports.mantissa import mantissa_report, tolerance_report, weights_report
    from bfpsim.reports.mapping import front_report, mapping_report, solver_report
    from bfpsim.reports.occupancy import occupancy_frame, plot_occupancy
    from bfpsim.reports.quantization import formats_report, sensitivity_report
    from bfpsim.reports.report import Report, write_csv
    from bfpsim.reports.reproduction import (
        ablation_report,
        accuracy_report,
        alpha_report,
        energy_report,
    )
    from bfpsim.reports.roofline import Roof, plot_roofline
    from bfpsim.reports.search import search_report
    from bfpsim.reports.store.write import write_report
    from bfpsim.reports.sweep import sweep_report
    from bfpsim.reports.tables import (
        cycles_table,
        energy_table,
        simulation_report,
        simulation_table,
        traffic_table,
        validation_report,
        validation_table,
    )
    from bfpsim.reports.trace import write_trace
    from bfpsim.reports.workload import (
        catalog_report,
        host_frame,
        kinds_frame,
        workload_frame,
        workload_report,
    )
    from bfpsim.search.bitwidth.allocation import InfeasibleError
    from bfpsim.search.bitwidth.search import SearchResult, search_network
    from bfpsim.search.bitwidth.target import CostBudget, LossBudget, Tradeoff
    from bfpsim.search.buffers import sweep_capacity
    from bfpsim.search.curve import traffic_curves
    from bfpsim.search.experiments.answer import Answer, choose_formats
    from bfpsim.search.experiments.bitq import (
        reproduce_ablation,
        reproduce_accuracy,
        reproduce_alpha,
        reproduce_energy,
    )
    from bfpsim.search.experiments.classifier import Classifier, make_classifier
    from bfpsim.search.experiments.formats import study_formats, study_sensitivity
    from bfpsim.search.experiments.inference import run_images
    from bfpsim.search.experiments.mantissa import study_mantissa, study_tolerance, study_weights
    from bfpsim.search.experiments.program import ProgramComparison, compare_program
    from bfpsim.search.mappings import map_fronts, map_network, mappings_of
    from bfpsim.search.phases import progress_lines
    from bfpsim.search.rescore import find_mapping, rescored
    from bfpsim.search.solvers import compare_solvers
    from bfpsim.search.store import StoreError
    from bfpsim.search.sweep.run import sweep
    from bfpsim.search.sweep.spec import SweepError
    from bfpsim.sim.inference import calibrate, infer, infer_quantised, run_inference
    from bfpsim.sim.program import OperationResult, ProgramResult
    from bfpsim.sim.result import LayerResult, NetworkResult
    from bfpsim.sim.simulate import simulate, simulate_network
    from bfpsim.sim.validate import validate
    from bfpsim.workloads import (
        ConvLayer,
        Network,
        NetworkBuilder,
        WorkloadError,
        load_graph,
        load_weights,
        load_with_weights,
        load_workload,
        normalise,
        save_weights,
        save_workload,
        shipped_images,
        shipped_weights,
    )
    from bfpsim.workloads.training.shipped import load_module, shipped_module

__version__ = "0.1.0"

# Where git makes no links, as is usual on Windows, they are text files, and no module is found.
if not isdir(join(__path__[0], "arch")):
    raise ImportError(
        f"{join(__path__[0], 'arch')} is no folder: git made no links in this checkout; run "
        "`git config core.symlinks true` and `git checkout -- bfpsim`, or install the wheel"
    )

_HOME = {
    "bfpsim.arch": (
        "Arch ArchError Axis Buffer DeviceDram Dma Dram InnerLevel Level PEArray Ports Register "
        "Registers SplitSram Sram dump_arch load_arch"
    ),
    "bfpsim.copies": "replace",
    "bfpsim.mapping.constraints": "Constraints",
    "bfpsim.mapping.file": "load_mappings save_mappings",
    "bfpsim.mapping.models": "predict",
    "bfpsim.mapping.nest": "Mapping MappingError",
    "bfpsim.quant.formats": (
        "BFP BFloat16 FormatError LayerFormats MSFP MX NVFP4 Plain Rounding ScaleRounding "
        "dequantize pack parse_format quantize_activation quantize_weight unpack"
    ),
    "bfpsim.quant.mantissa.minifloat": "MiniFloat",
    "bfpsim.quant.study.accuracy": "TopK top_k",
    "bfpsim.quant.study.additivity": "check_additivity",
    "bfpsim.quant.study.comparison": "compare_formats",
    "bfpsim.quant.study.datasets": (
        "Normalisation read_idx_dataset read_npz_dataset shipped_test_images"
    ),
    "bfpsim.quant.study.image_folder": "read_image_folder",
    "bfpsim.quant.study.sensitivity": "Sensitivity measure_sensitivity",
    "bfpsim.quant.torch.model": "Codings QuantizedModel quantize_model",
    "bfpsim.quant.training.fine_tuning": "fine_tune",
    "bfpsim.reports.capacity": (
        "curve_report plot_energies plot_programs plot_sweep programs_table sweep_table"
    ),
    "bfpsim.reports.mantissa": "mantissa_report tolerance_report weights_report",
    "bfpsim.reports.mapping": "front_report mapping_report solver_report",
    "bfpsim.reports.occupancy": "occupancy_frame plot_occupancy",
    "bfpsim.reports.quantization": "formats_report sensitivity_report",
    "bfpsim.reports.report": "Report write_csv",
    "bfpsim.reports.reproduction": "ablation_report accuracy_report alpha_report energy_report",
    "bfpsim.reports.roofline": "Roof plot_roofline",
    "bfpsim.reports.search": "search_report",
    "bfpsim.reports.store.write": "write_report",
    "bfpsim.reports.sweep": "sweep_report",
    "bfpsim.reports.tables": (
        "cycles_table energy_table simulation_report simulation_table traffic_table "
        "validation_report validation_table"
    ),
    "bfpsim.reports.trace": "write_trace",
    "bfpsim.reports.workload": (
        "catalog_report host_frame kinds_frame workload_frame workload_report"
    ),
    "bfpsim.search.bitwidth.allocation": "InfeasibleError",
    "bfpsim.search.bitwidth.search": "SearchResult search_network",
    "bfpsim.search.bitwidth.target": "CostBudget LossBudget Tradeoff",
    "bfpsim.search.buffers": "sweep_capacity",
    "bfpsim.search.curve": "traffic_curves",
    "bfpsim.search.experiments.answer": "Answer choose_formats",
    "bfpsim.search.experiments.bitq": (
        "reproduce_ablation reproduce_accuracy reproduce_alpha reproduce_energy"
    ),
    "bfpsim.search.experiments.classifier": "Classifier make_classifier",
    "bfpsim.search.experiments.formats": "study_formats study_sensitivity",
    "bfpsim.search.experiments.inference": "run_images",
    "bfpsim.search.experiments.program": "ProgramComparison compare_program",
    "bfpsim.search.experiments.mantissa": "study_mantissa study_tolerance study_weights",
    "bfpsim.search.mappings": "map_fronts map_network mappings_of",
    "bfpsim.search.phases": "progress_lines",
    "bfpsim.search.rescore": "find_mapping rescored",
    "bfpsim.search.solvers": "compare_solvers",
    "bfpsim.search.store": "StoreError",
    "bfpsim.search.sweep.run": "sweep",
    "bfpsim.search.sweep.spec": "SweepError",
    "bfpsim.sim.inference": "calibrate infer infer_quantised run_inference",
    "bfpsim.sim.program": "OperationResult ProgramResult",
    "bfpsim.sim.result": "LayerResult NetworkResult",
    "bfpsim.sim.simulate": "simulate simulate_network",
    "bfpsim.sim.validate": "validate",
    "bfpsim.workloads": (
        "ConvLayer Network NetworkBuilder WorkloadError load_graph load_weights load_with_weights "
        "load_workload normalise save_weights save_workload shipped_images shipped_weights"
    ),
    "bfpsim.workloads.training.shipped": "load_module shipped_module",
}
"""Module -> the public names that it defines."""

_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "BFP",
    "MSFP",
    "MX",
    "NVFP4",
    "Answer",
    "Arch",
    "ArchError",
    "Axis",
    "BFloat16",
    "Buffer",
    "Classifier",
    "Codings",
    "Constraints",
    "ConvLayer",
    "CostBudget",
    "DeviceDram",
    "Dma",
    "Dram",
    "FormatError",
    "InfeasibleError",
    "InnerLevel",
    "LayerFormats",
    "LayerResult",
    "Level",
    "LossBudget",
    "Mapping",
    "MappingError",
    "MiniFloat",
    "Network",
    "NetworkBuilder",
    "NetworkResult",
    "Normalisation",
    "OperationResult",
    "PEArray",
    "Plain",
    "Ports",
    "ProgramComparison",
    "ProgramResult",
    "QuantizedModel",
    "Register",
    "Registers",
    "Report",
    "Roof",
    "Rounding",
    "ScaleRounding",
    "SearchResult",
    "Sensitivity",
    "SplitSram",
    "Sram",
    "StoreError",
    "SweepError",
    "TopK",
    "Tradeoff",
    "WorkloadError",
    "ablation_report",
    "accuracy_report",
    "alpha_report",
    "calibrate",
    "catalog_report",
    "check_additivity",
    "choose_formats",
    "compare_formats",
    "compare_program",
    "compare_solvers",
    "curve_report",
    "cycles_table",
    "dequantize",
    "dump_arch",
    "energy_report",
    "energy_table",
    "find_mapping",
    "fine_tune",
    "formats_report",
    "front_report",
    "host_frame",
    "infer",
    "infer_quantised",
    "kinds_frame",
    "load_arch",
    "load_graph",
    "load_mappings",
    "load_module",
    "load_weights",
    "load_with_weights",
    "load_workload",
    "make_classifier",
    "mantissa_report",
    "map_fronts",
    "map_network",
    "mapping_report",
    "mappings_of",
    "measure_sensitivity",
    "normalise",
    "occupancy_frame",
    "pack",
    "parse_format",
    "plot_energies",
    "plot_occupancy",
    "plot_programs",
    "plot_roofline",
    "plot_sweep",
    "predict",
    "programs_table",
    "progress_lines",
    "quantize_activation",
    "quantize_model",
    "quantize_weight",
    "read_idx_dataset",
    "read_image_folder",
    "read_npz_dataset",
    "replace",
    "reproduce_ablation",
    "reproduce_accuracy",
    "reproduce_alpha",
    "reproduce_energy",
    "rescored",
    "run_images",
    "run_inference",
    "save_mappings",
    "save_weights",
    "save_workload",
    "search_network",
    "search_report",
    "sensitivity_report",
    "shipped_images",
    "shipped_module",
    "shipped_test_images",
    "shipped_weights",
    "simulate",
    "simulate_network",
    "simulation_report",
    "simulation_table",
    "solver_report",
    "study_formats",
    "study_mantissa",
    "study_sensitivity",
    "study_tolerance",
    "study_weights",
    "sweep",
    "sweep_capacity",
    "sweep_report",
    "sweep_table",
    "tolerance_report",
    "top_k",
    "traffic_curves",
    "traffic_table",
    "unpack",
    "validate",
    "validation_report",
    "validation_table",
    "weights_report",
    "workload_frame",
    "workload_report",
    "write_csv",
    "write_report",
    "write_trace",
]


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name when the name is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'bfpsim' has no attribute {name!r}")
    try:
        return getattr(import_module(_MODULE_OF[name]), name)
    except ModuleNotFoundError as error:
        message = missing_extra(error, f"bfpsim.{name}")
        if message is None:
            raise
        raise ImportError(message) from None


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
