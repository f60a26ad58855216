"""The few bits that weights need: of one network, of its weights alone, of several networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from bfpsim.arch import Arch, ArchSource, load_arch
from bfpsim.mapping.counts import level_column
from bfpsim.objects import brief
from bfpsim.quant.formats import LayerFormats, Plain, Rounding
from bfpsim.quant.mantissa.accuracy import (
    POINT,
    WIDTHS,
    fewest_bits,
    grid,
    measure_accuracy,
    measure_tolerance,
    tolerances,
)
from bfpsim.quant.mantissa.errors import find_units, measure_errors
from bfpsim.quant.mantissa.minifloat import MiniFloat
from bfpsim.quant.mantissa.weights import (
    Span,
    Weights,
    check_weights,
    exponent_histogram,
    exponent_span,
    histogram,
    imported_weights,
    layer_statistics,
    pearson_kurtosis,
    pooled,
    stored_weights,
)
from bfpsim.quant.study.accuracy import logits_of
from bfpsim.quant.study.datasets import Dataset
from bfpsim.quant.torch.model import uncalibrated_model
from bfpsim.search.experiments.classifier import module_network
from bfpsim.search.phases import Phases, silent
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import LayerWeights, Network, NetworkSource, load_workload

if TYPE_CHECKING:
    import pandas as pd

_FLOAT = Plain(32)


@brief
@dataclass(frozen=True, eq=False)
class WeightStudy:
    """A network's weights, and what their width costs.

    size: how many weights; kurtosis: of all pooled (Pearson's)
    layers: a row per layer (`layer_statistics`)
    histogram, exponents: of all pooled (`histogram`, `exponent_histogram`)
    span: the exponents of 99.9 % of them; None if zeros are that many
    arch: the architecture's name; activations: whether inputs and outputs are in FP(e, m), too
    energy: a row per FP(e, m) (`measure_energy`)
    """

    name: str
    size: int
    kurtosis: float
    layers: pd.DataFrame
    histogram: pd.DataFrame
    exponents: pd.DataFrame
    span: Span | None
    arch: str
    activations: bool
    energy: pd.DataFrame


@brief
@dataclass(frozen=True, eq=False)
class MantissaStudy:
    """A network in every FP(e, m), without training.

    weights: their distribution, and the energy of each format, with its top1 and accuracy_loss
    images: how many judged it; rounding: of weights
    within: loss of top-1 that is allowed, a share of the images
    accuracy: a row per format (`measure_accuracy`)
    errors: of one building block quantised at a time (`measure_errors`)
    """

    weights: WeightStudy
    images: int
    rounding: Rounding
    within: float
    accuracy: pd.DataFrame
    errors: pd.DataFrame

    @property
    def top1_fp32(self) -> float:
        """Top-1 of the float network, a share of the images."""
        return float((self.accuracy["top1"] + self.accuracy["accuracy_loss"]).iloc[0])

    @property
    def fewest_mantissa_bits(self) -> int | None:
        """The fewest that lose no more than is allowed, with 8 exponent bits; None if none do."""
        widest = self.accuracy[self.accuracy["exponent_bits"] == 8]
        return fewest_bits(widest, "mantissa_bits", self.within)

    @property
    def fewest_exponent_bits(self) -> int | None:
        """The fewest that lose no more than is allowed, with the fewest mantissa bits."""
        narrow = self.accuracy[self.accuracy["mantissa_bits"] == self.fewest_mantissa_bits]
        return fewest_bits(narrow, "exponent_bits", self.within)

    def energy_saved(self, exponent_bits: int | None, mantissa_bits: int | None) -> float | None:
        """The share of the energy in float32 that FP(e, m) saves; None for no format."""
        energy = self.weights.energy
        rows = energy[
            (energy["exponent_bits"] == exponent_bits) & (energy["mantissa_bits"] == mantissa_bits)
        ]
        return float(rows["energy_saved"].iloc[0]) if len(rows) else None


@brief
@dataclass(frozen=True, eq=False)
class ToleranceStudy:
    """Several networks at each of a few mantissa widths.

    images, rounding, within: as in `MantissaStudy`; activations: as in `WeightStudy`
    networks: a row per network (`tolerances`)
    accuracy: a row per network and width (`measure_tolerance`)
    """

    images: int
    rounding: Rounding
    activations: bool
    within: float
    networks: pd.DataFrame
    accuracy: pd.DataFrame


def study_mantissa(
    module: nn.Module,
    images: Dataset,
    arch: ArchSource,
    *,
    name: str | None = None,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    activations: bool = False,
    within: float = POINT,
    unit_formats: Sequence[MiniFloat] | None = None,
    unit_images: int = 100,
    progress: Phases = silent,
) -> MantissaStudy:
    """Evaluate a trained module in every FP(e, m), e from 8 to 2 and m from 23 to 0.

    Also the energy of each width on an architecture, the weights' distribution, and the error that
    quantising one building block at a time makes.

    name: what tables call it; None: its class
    activations: inputs and outputs of layers in FP(e, m), too; else they are float32
    within: loss of top-1 that is allowed, a share of the images
    unit_formats: of building blocks, compared on the first `unit_images`; None: e8m3

    Raises WorkloadError for an output that is not one tensor (images, classes), FormatError for
    weights that are NaN or infinite, MappingError if a layer has no legal mapping.
    """
    arch = load_arch(arch)
    name = name or type(module).__name__
    some = images.batch(range(min(unit_images, len(images)))).inputs
    model = uncalibrated_model(module, (some[:4],), name)  # these formats have no E_top
    with torch.no_grad():
        logits_of(model, some[:4])
    weights = stored_weights(model, some[:1])
    check_weights(name, weights)
    formats = grid(rounding)
    # Before the accuracy, which takes longer: an architecture that is too small shows at once.
    network = module_network(module, some[:1])
    energy = _measure_energy(name, network, arch, formats, activations, progress)
    with progress(f"evaluating {name}", len(formats)) as step:
        accuracy = measure_accuracy(model, images, formats, activations, progress=step)
    units = find_units(module, model.sites)
    with progress(f"quantising units of {name}", len(units)) as step:
        errors = measure_errors(
            model, some, units, unit_formats or [MiniFloat(8, 3, rounding)], progress=step
        )
    energy = energy.merge(accuracy[["format", "top1", "accuracy_loss"]], on="format")
    return MantissaStudy(
        _weight_study(name, weights, arch, activations, energy),
        len(images),
        rounding,
        within,
        accuracy,
        errors,
    )


def study_weights(
    network: NetworkSource,
    weights: Mapping[str, LayerWeights],
    arch: ArchSource,
    *,
    name: str | None = None,
    activations: bool = False,
    progress: Phases = silent,
) -> WeightStudy:
    """Weights of a network that is not run: their distribution, and the energy of each width.

    weights: by layer, as `load_with_weights` returns them; equal ones count once
    name: what tables call it; None: the network's
    activations: as in `study_mantissa`

    Raises FormatError for weights that are NaN or infinite, or if there are none; MappingError.
    """
    network = load_workload(network)
    arch = load_arch(arch)
    name, own = name or network.name, imported_weights(network, weights)
    check_weights(name, own)
    energy = _measure_energy(name, network, arch, grid(), activations, progress)
    return _weight_study(name, own, arch, activations, energy)


def study_tolerance(
    modules: Mapping[str, nn.Module],
    images: Dataset,
    *,
    rounding: Rounding = Rounding.NEAREST_EVEN,
    activations: bool = False,
    within: float = POINT,
    progress: Phases = silent,
) -> ToleranceStudy:
    """Evaluate several trained modules, by name, at each of a few mantissa widths.

    rounding, activations, within: as in `study_mantissa`, as is what it raises
    """
    import pandas as pd

    parts = []
    with progress("evaluating", len(modules) * len(WIDTHS)) as step:
        for name, module in modules.items():

            def one(format: str, name: str = name) -> None:
                step(f"{name} {format}")

            parts.append(
                measure_tolerance(name, module, images, rounding, activations, progress=one)
            )
    accuracy = pd.concat(parts, ignore_index=True)
    networks = tolerances(accuracy, within)
    return ToleranceStudy(len(images), rounding, activations, within, networks, accuracy)


def _weight_study(
    name: str, weights: Weights, arch: Arch, activations: bool, energy: pd.DataFrame
) -> WeightStudy:
    row = pooled(weights)
    return WeightStudy(
        name,
        row.size,
        pearson_kurtosis(row),
        layer_statistics(weights),
        histogram(row),
        exponent_histogram(row),
        exponent_span(row),
        arch.name,
        activations,
        energy,
    )


def _measure_energy(
    name: str,
    network: Network,
    arch: Arch,
    formats: Sequence[MiniFloat],
    activations: bool,
    progress: Phases,
) -> pd.DataFrame:
    with progress(f"simulating {name} on {arch.name}", distinct_widths(formats)) as step:
        return measure_energy(network, arch, formats, activations=activations, progress=step)


def measure_energy(
    network: Network,
    arch: Arch,
    formats: Iterable[MiniFloat],
    *,
    activations: bool = False,
    progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Simulate a network, every layer under its best mapping, with weights stored in FP(e, m).

    Traffic depends on the width 1 + e + m alone, so each width is simulated once. Energy is that
    of data movement (Eq. 8), for one pass over the network's inputs; partial sums have the array's
    `accumulator_bits`. Both factors of a product of activations are inputs, not weights.

    activations: inputs and outputs of layers in the format, too; else they are float32
    progress: called with "12 bit" when a width is done, and with "32 bit" first

    Returns a row per format, in the given order: format, exponent_bits, mantissa_bits, bits (of an
    element), dram_bits (bursts included), dram_weight_bits (of these, weights), dram_energy_pj,
    sram_energy_pj, energy_pj, energy_saved (share of the energy in float32).

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    import pandas as pd

    formats = list(formats)
    costs: dict[int, dict[str, float]] = {}
    for width in dict.fromkeys((_FLOAT.bits, *(fmt.element_bits for fmt in formats))):
        costs[width] = _cost(network, arch, width, activations)
        if progress is not None:
            progress(f"{width} bit")
    original = costs[_FLOAT.bits]["energy_pj"]
    return pd.DataFrame(
        {
            "format": str(fmt),
            "exponent_bits": fmt.exponent_bits,
            "mantissa_bits": fmt.mantissa_bits,
            "bits": fmt.element_bits,
            **costs[fmt.element_bits],
            "energy_saved": 1 - costs[fmt.element_bits]["energy_pj"] / original,
        }
        for fmt in formats
    )


def distinct_widths(formats: Iterable[MiniFloat]) -> int:
    """The number of simulations that `measure_energy` takes."""
    return len({_FLOAT.bits, *(fmt.element_bits for fmt in formats)})


def _cost(network: Network, arch: Arch, width: int, activations: bool) -> dict[str, float]:
    # An element of this width moves as any other of it does, whatever its fields are.
    narrow = Plain(width)
    others = narrow if activations else _FLOAT
    holders = {n.name for n in network.nodes if n.layer is not None and n.op != "matmul"}
    formats = {
        layer.name: LayerFormats(others, narrow if layer.name in holders else others, others)
        for layer in network.layers
    }
    result = simulate_layers(network, arch, formats)
    outermost = arch.levels[0].name
    moved = result.traffic[result.traffic["level"] == outermost]
    weights = (moved["tensor"] == "W") & moved["layer"].isin(holders)
    energy = result.traffic.groupby("level", sort=False)["energy_pj"].sum()
    return {
        level_column(outermost, "bits"): int(moved["bits"].sum()),
        level_column(outermost, "weight_bits"): int(moved.loc[weights, "bits"].sum()),
        **{level_column(str(level), "energy_pj"): float(pj) for level, pj in energy.items()},
        "energy_pj": result.energy_pj,
    }
