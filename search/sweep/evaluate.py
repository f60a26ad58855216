"""Evaluation of a point: map every layer, simulate it, and set the models beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from bfpsim.arch import Arch
from bfpsim.mapping.array import passes
from bfpsim.mapping.counts import Counts, ordered
from bfpsim.mapping.energy import operand_bits
from bfpsim.mapping.floor import program_floor
from bfpsim.mapping.mapper import Model, find_mapping
from bfpsim.mapping.models import EXACT, PAPER, compulsory_counts, ladder, model_counts
from bfpsim.mapping.nest import TENSORS, Mapping, MappingError, Tensor
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import LayerFormats
from bfpsim.search.sweep.point import Point, program
from bfpsim.search.sweep.record import LayerRecord, Models, Record, Residency, VectorRecord
from bfpsim.sim.program import OperationResult, plan_program
from bfpsim.sim.result import LayerResult
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import ConvLayer

_REMEMBERED = 1 << 14  # mappings, of some 500 bytes each; and as many layers' models


class ProgramError(RuntimeError):
    """A worker whose code is not that of the process that gives it points."""


class Outcome(NamedTuple):
    """A point's record as JSON and what its objective sums up to, or the error.

    cost: DRAM bits, pJ or cycles
    """

    record: str | None
    cost: float
    error: str | None


def evaluate(point: Point, progress: Callable[[str], None] | None = None) -> Record:
    """Simulate a point; the same point gives the same record, wherever it runs.

    progress: called with each layer's name when it is done

    Raises MappingError, naming the layer, if a layer has no legal mapping.
    """
    if point.layers == "program":
        return _run_program(point, progress)
    network, arch, formats = point.network, point.arch, point.formats_by_layer
    mappings = {
        layer.name: _mapping(layer, arch, formats[layer.name], point.objective, point.model)
        for layer in network.layers
    }
    results = simulate_layers(network, arch, formats, mappings, progress).layers
    return Record(network.name, arch, tuple(_record(one, point.ladder) for one in results))


def attempt(point: Point, expected: str) -> Outcome:
    """Evaluate a point in a worker; whatever is wrong with the point is its outcome.

    expected: the `program` of the process that hands it out

    Raises ProgramError if this worker runs another one.
    """
    if program() != expected:
        raise ProgramError
    try:
        record = evaluate(point)
        return Outcome(record.to_json(), record.cost(point.objective), None)
    except Exception as error:  # a defect too: the other points are still wanted
        reason = " ".join(str(error).split())
        name = "" if isinstance(error, MappingError) else f"{type(error).__name__}: "
        return Outcome(None, math.inf, f"{name}{reason}")


def _mapping(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, objective: Objective, model: Model
) -> Mapping:
    """The best mapping; neighbouring points, and layers of one kind, share the search."""
    try:
        return _best(
            replace(layer, name="layer"), _seen(arch, objective), formats, objective, model
        )
    except MappingError:  # whose message is to name the layer and the architecture
        return find_mapping(layer, arch, formats, objective=objective, model=model)


@lru_cache(_REMEMBERED)
def _best(
    layer: ConvLayer, arch: Arch, formats: LayerFormats, objective: Objective, model: Model
) -> Mapping:
    return find_mapping(layer, arch, formats, objective=objective, model=model)


def _seen(arch: Arch, objective: Objective) -> Arch:
    """The architecture without what no mapping search with this objective looks at.

    Nor do the models of bits look at what the search for the fewest DRAM bits does not.
    """
    unseen = {"background": 0, "idle": "standby", "timing": "priced"}
    if objective == "dram":
        unseen |= {"energy": 0, "io": 0}
    known = type(arch.dram).model_fields
    dram = arch.dram.model_copy(update={name: unseen[name] for name in unseen if name in known})
    array = arch.pe_array.model_copy(update={"mac_energy": None})
    return arch.model_copy(update={"name": "any", "dram": dram, "pe_array": array})


def _run_program(point: Point, progress: Callable[[str], None] | None) -> Record:
    formats = point.formats_by_layer
    result = plan_program(point.network, point.arch, formats).run(progress=progress)
    floors = program_floor(result.program, point.arch, formats)
    outer = point.arch.levels[0].name
    kept = result.allocation
    layers = tuple(
        _operation_record(own, floors[own.name], outer)
        for own in result.operations
        if own.operation.unit != "host"
    )
    stays = Residency(len(result.program.activations), len(kept.residents), kept.bound)
    return Record(point.network.name, point.arch, layers, stays)


def _operation_record(result: OperationResult, floor: Counts, outer: str) -> LayerRecord:
    return replace(
        _counted(
            result,
            result.name,
            result.formats,
            result.tiles if isinstance(result.tiles, Mapping) else Mapping(),
            {tensor: int(floor.total(outer, tensor)) for tensor in TENSORS},
        ),
        stalls={tensor: result.stalls[tensor] if result.macs else 0 for tensor in TENSORS},
        vector=VectorRecord(
            result.vector_cycles,
            result.vector_operations,
            0 if result.macs else sum(result.stalls.values()),
            int(floor.total(outer, "V", "read")),
            int(floor.total(outer, "V", "write")),
        ),
    )


def _record(result: LayerResult, ladder: bool) -> LayerRecord:
    layer, times = result.layer, result.repeats
    kind, arch = replace(layer, name="layer"), _seen(result.arch, "dram")
    floor = _compulsory(kind, arch, result.formats)
    models = _models(kind, arch, result.mapping, result.formats) if ladder else None
    compulsory = {tensor: bits * times for tensor, bits in floor.items()}
    return replace(
        _counted(result, layer.name, result.formats, result.mapping, compulsory),
        stalls=result.stalls,
        models=None if models is None else models.scaled(times),
    )


def _counted(
    result: LayerResult | OperationResult,
    name: str,
    formats: LayerFormats | None,
    mapping: Mapping,
    compulsory: dict[Tensor, int],
) -> LayerRecord:
    """What a layer's record and an operation's have in common."""
    counts = result.counts
    return LayerRecord(
        layer=name,
        formats="" if formats is None else str(formats),
        macs=result.macs,
        passes=0 if formats is None else passes(result.arch.pe_array, formats),
        operand_bits=0 if formats is None else operand_bits(formats),
        mapping=mapping,
        steps=result.steps,
        transfers=result.transfers,
        cycles=result.cycles,
        steady_cycles=result.steady_cycles,
        fill_cycles=result.fill_cycles,
        port_cycles=result.port_cycles,
        dram_busy_cycles=result.dram_busy_cycles,
        activates=result.activates,
        stalls={},
        traffic=Counts({flow: int(counts[flow]) for flow in ordered(counts, result.arch)}),
        compulsory=compulsory,
        models=None,
    )


@lru_cache(_REMEMBERED)
def _compulsory(layer: ConvLayer, arch: Arch, formats: LayerFormats) -> dict[Tensor, int]:
    counts = compulsory_counts(layer, arch, formats)
    outer = arch.levels[0].name
    return {tensor: int(counts.total(outer, tensor)) for tensor in TENSORS}


@lru_cache(_REMEMBERED)
def _models(layer: ConvLayer, arch: Arch, mapping: Mapping, formats: LayerFormats) -> Models:
    exact = model_counts(layer, arch, mapping, formats, EXACT)
    paper = model_counts(layer, arch, mapping, formats, PAPER)
    outer, *inside = (level.name for level in arch.levels)
    return Models(
        int(exact.total(outer)),
        Fraction(paper.total(outer)),
        {level: int(exact.total(level)) for level in inside},
        {level: Fraction(paper.total(level)) for level in inside},
        {rung: added for rung, added, _ in ladder(layer, arch, mapping, formats)[1:]},
    )
