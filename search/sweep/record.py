"""The record of a point: every layer, and its JSON form.

All numbers are exact: fractions of bits, which the paper's model has, are kept as such.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from typing import Any

from bfpsim.arch import Arch
from bfpsim.mapping.counts import Counts, Flow, Kind, energy_pj
from bfpsim.mapping.energy import Energy, Work, energy_of
from bfpsim.mapping.nest import TENSORS, Tensor
from bfpsim.mapping.nest import Mapping as Tiling
from bfpsim.mapping.objective import Objective
from bfpsim.search.sweep.check import RecordError, check
from bfpsim.sim.demand import Demand, Passed, demands
from bfpsim.sim.simulate import Layers
from bfpsim.sim.utilisation import Utilisation
from bfpsim.sim.validate import RUNGS
from bfpsim.workloads.layer import check_name


@dataclass(frozen=True, slots=True)
class Models:
    """The analytical models of a layer beside its simulation.

    exact, paper: DRAM bits by each model
    exact_inside, paper_inside: bits of SRAM and of each level inside it, by name
    rungs: DRAM bits that each effect adds, from the paper's model up to the simulation
    """

    exact: int
    paper: Fraction
    exact_inside: Mapping[str, int]
    paper_inside: Mapping[str, Fraction]
    rungs: Mapping[str, Fraction]

    def scaled(self, times: int) -> Models:
        """The sums over `times` equal layers."""
        return Models(
            self.exact * times,
            self.paper * times,
            {level: bits * times for level, bits in self.exact_inside.items()},
            {level: bits * times for level, bits in self.paper_inside.items()},
            {rung: bits * times for rung, bits in self.rungs.items()},
        )


@dataclass(frozen=True, slots=True)
class VectorRecord:
    """What the vector unit did for an operation of a program.

    cycles: that it worked; operations: of its lanes
    stall_cycles: that it waited, where the operation is its own
    least_read, least_written: payload of V that no allocation keeps on chip [bit]
    """

    cycles: int
    operations: int
    stall_cycles: int
    least_read: int
    least_written: int


@dataclass(frozen=True, slots=True)
class Residency:
    """What a program kept on chip.

    activations: how many there are; stay: of these
    least_dram_bits: what no other choice moves less than
    """

    activations: int
    stay: int
    least_dram_bits: int


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer, or an operation of a program; all sums are over its repeats.

    What is an operation of the vector unit alone has no multiply-accumulates, formats or mapping.

    passes: of a multiplication whose operands are wider than a multiplier's
    operand_bits: of the wider significand
    steady_cycles, fill_cycles, port_cycles: what the PE array's cycles are made of, as in
        `LayerResult`
    cycles: of a program those by which its end moves on
    activates: rows that a DRAM device opened
    stalls: cycles the PE array waited, by the tensor whose tile came last
    traffic: simulated bits per flow
    compulsory: DRAM payload that no mapping avoids, by tensor [bit]
    models: None where they were not asked for, and of programs
    vector: of a program's operation
    """

    layer: str
    formats: str
    macs: int
    passes: int
    operand_bits: int
    mapping: Tiling
    steps: int
    transfers: int
    cycles: int
    steady_cycles: int
    fill_cycles: int
    port_cycles: int
    dram_busy_cycles: int
    activates: int
    stalls: Mapping[Tensor, int]
    traffic: Counts
    compulsory: Mapping[Tensor, int]
    models: Models | None
    vector: VectorRecord | None = None

    @property
    def compute_cycles(self) -> int:
        """Cycles that the PE array is busy."""
        return self.steady_cycles + self.fill_cycles + self.port_cycles

    @property
    def work(self) -> Work:
        """What the layer spends energy on."""
        done = 0 if self.vector is None else self.vector.operations
        return Work(
            *(self.traffic, self.macs * self.passes, self.operand_bits, self.cycles, done),
            activates=self.activates,
            dram_busy=self.dram_busy_cycles,
        )


def utilisation_of(layers: Sequence[LayerRecord], arch: Arch) -> Utilisation:
    """How much of the PE array some layers use together, one after another."""
    return Utilisation.of(
        sum(layer.macs for layer in layers),
        sum(layer.macs * layer.passes for layer in layers),
        arch.pe_array.size,
        sum(layer.steady_cycles for layer in layers),
        sum(layer.cycles for layer in layers),
    )


@dataclass(frozen=True, slots=True)
class Record:
    """A point's layers, in the network's order, and the hardware that they ran on.

    residency: None of layers that ran alone; else the layers are a program's operations
    """

    network: str
    arch: Arch
    layers: tuple[LayerRecord, ...]
    residency: Residency | None = None

    @property
    def how(self) -> Layers:
        """How the layers ran."""
        return "alone" if self.residency is None else "program"

    @property
    def cycles(self) -> int:
        """Cycles of all layers, one after the other; of a program from its start to its end."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def demands(self) -> list[Demand]:
        """What a busy cycle asks of memories whose ports have no limit."""
        layers = [
            Passed(one.layer, one.traffic, one.compute_cycles) for one in self.layers if one.macs
        ]
        return demands(self.arch, layers)

    def bits(self, level: str, kind: Kind | None = None) -> int:
        """Simulated bits of a level, of one kind or all, burst padding included."""
        return sum(int(layer.traffic.total(level, kind=kind)) for layer in self.layers)

    def energy_pj(self, level: str | None = None) -> float:
        """Eq. 8 over all layers, of one level or all, correctly rounded [pJ]."""
        return math.fsum(
            energy_pj(flow, bits, self.arch)
            for layer in self.layers
            for flow, bits in layer.traffic.items()
            if level in (None, flow.level)
        )

    @property
    def energy(self) -> Energy:
        """What the energy of all layers is made of."""
        return energy_of(self.arch, [layer.work for layer in self.layers])

    def cost(self, objective: Objective) -> float:
        """Of an objective: DRAM bits, pJ or cycles of all layers, or the product of the two."""
        if objective == "dram":
            return self.bits(self.arch.levels[0].name)
        if objective == "edp":
            return self.energy_pj() * self.cycles
        return self.energy_pj() if objective == "energy" else self.cycles

    def to_json(self) -> str:
        """One line; what layers of one kind have in common stands in it once."""
        kinds: dict[str, int] = {}
        layers = []
        for layer in self.layers:
            kind = json.dumps(_plain(layer), separators=(",", ":"))
            layers.append([layer.layer, kinds.setdefault(kind, len(kinds))])
        head = {
            "network": self.network,
            "arch": self.arch.model_dump(),
            "residency": None if self.residency is None else asdict(self.residency),
            "layers": layers,
        }
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"kinds":[{",".join(kinds)}]}}'

    @classmethod
    def from_json(cls, text: str) -> Record:
        """The record that `to_json` wrote.

        Raises RecordError for anything else.
        """
        try:
            data = json.loads(text)
            kinds = [_layer(kind) for kind in data["kinds"]]
            names = [(name, kinds[kind]) for name, kind in data["layers"]]
            arch, network = Arch.model_validate(data["arch"]), data["network"]
            stays = None if data["residency"] is None else Residency(**data["residency"])
            check(stays, Residency | None, "residency")
            for kind in kinds:
                check(kind, LayerRecord)
                _check_keys(kind, arch)
                if (kind.vector is None) != (stays is None):
                    raise RecordError("a program's operation among layers, or the other way round")
            if not names:
                raise RecordError("no layer")
            for name in (network, *(name for name, _ in names)):
                check_name("record of", name)
            layers = tuple(replace(kind, layer=name) for name, kind in names)
            if not any(layer.macs for layer in layers) or not any(own.cycles for own in layers):
                raise RecordError("no work")
            return cls(network, arch, layers, stays)
        except RecordError:
            raise
        except (
            LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError,
        ) as error:  # fmt: skip
            wrong = " ".join(f"{type(error).__name__} {error}".split())
            raise RecordError(f"no record of this version of bfpsim ({wrong[:200]})") from None


def _check_keys(layer: LayerRecord, arch: Arch) -> None:
    """Raise RecordError for other tensors, levels or rungs than there are, or no work at all."""
    _, *inside = levels = [level.name for level in arch.levels]
    expected: list[tuple[str, Mapping[Any, Any], Sequence[str]]] = [
        ("stalls", layer.stalls, TENSORS),
        ("compulsory", layer.compulsory, TENSORS),
    ]
    if layer.models is not None:
        expected += [
            ("exact_inside", layer.models.exact_inside, inside),
            ("paper_inside", layer.models.paper_inside, inside),
            ("rungs", layer.models.rungs, RUNGS),
        ]
    for name, held, keys in expected:
        if {*held} != {*keys}:
            raise RecordError(f"{name} of {sorted(map(str, held))[:8]}, not of {', '.join(keys)}")
    if not {flow.level for flow in layer.traffic} <= {*levels}:
        raise RecordError(f"traffic of levels that {arch.name} has not")
    if not {*layer.mapping.inner} <= {*inside}:
        raise RecordError(f"a mapping of levels that {arch.name} has not")
    needed = [layer.macs, layer.passes, layer.operand_bits, layer.cycles, layer.steady_cycles]
    if layer.vector is not None:  # whose time may lie in that of others
        needed = [layer.passes, layer.operand_bits, layer.steady_cycles] if layer.macs else [1]
    if 0 in needed:
        raise RecordError("a layer without work")


def _plain(layer: LayerRecord) -> dict[str, Any]:
    """A layer without its name, as JSON can hold it."""
    data = _fields(layer)
    del data["layer"]
    data["mapping"] = asdict(layer.mapping)
    data["traffic"] = [[*flow, bits] for flow, bits in layer.traffic.items()]
    if layer.models is not None:
        models = _fields(layer.models)
        models["paper"] = str(layer.models.paper)
        for name in ("paper_inside", "rungs"):
            models[name] = {key: str(bits) for key, bits in models[name].items()}
        data["models"] = models
    data["vector"] = None if layer.vector is None else asdict(layer.vector)
    return data


def _fields(record: LayerRecord | Models) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _layer(data: dict[str, Any]) -> LayerRecord:
    """The layer that `_plain` took, its name still to come."""
    traffic = Counts({Flow(*flow): bits for *flow, bits in data["traffic"]})
    models = None if data["models"] is None else _models(data["models"])
    inner = {level: Tiling(**own) for level, own in data["mapping"]["inner"].items()}
    mapping = Tiling(**data["mapping"] | {"inner": inner})
    vector = None if data["vector"] is None else VectorRecord(**data["vector"])
    made = {"layer": "", "mapping": mapping, "traffic": traffic, "models": models, "vector": vector}
    return LayerRecord(**data | made)


def _models(data: dict[str, Any]) -> Models:
    fractions = {
        name: {key: _fraction(bits) for key, bits in data[name].items()}
        for name in ("paper_inside", "rungs")
    }
    return Models(**data | fractions | {"paper": _fraction(data["paper"])})


def _fraction(text: str) -> Fraction:
    """A fraction as `str` spells it; not 1e999999999, which fills the memory."""
    if not re.fullmatch(r"-?[0-9]{1,400}(/[1-9][0-9]{0,399})?", text):
        raise RecordError(f"{text[:40]!r} is no fraction")
    return Fraction(text)
