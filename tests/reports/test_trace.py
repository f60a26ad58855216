"""A trace read back: valid events, durations that add up, buffers that empty."""

import gzip
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bfpsim.arch import load_arch, replace
from bfpsim.mapping.nest import Mapping
from bfpsim.quant.formats import BFP, LayerFormats
from bfpsim.reports.trace import write_trace
from bfpsim.sim.result import NetworkResult, repeated
from bfpsim.sim.simulate import simulate, simulate_layers
from bfpsim.sim.timeline import Timeline
from bfpsim.workloads import NetworkBuilder

BFP8 = LayerFormats.uniform(BFP(8, 3, 16))


class Event(BaseModel):
    """What the format's specification asks of the kinds of events that are written."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[str, Field(min_length=1)]
    pid: int
    ts: Annotated[int, Field(ge=0)]


class Complete(Event):
    ph: Literal["X"]
    cat: str
    tid: int
    dur: Annotated[int, Field(ge=1)]
    args: dict[str, int | str]


class Sample(Event):
    ph: Literal["C"]
    cat: str
    args: Annotated[dict[str, int], Field(min_length=1)]


class Name(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Literal["process_name", "thread_name", "thread_sort_index"]
    ph: Literal["M"]
    pid: int
    tid: int
    args: dict[Literal["name", "sort_index"], str | int]


class Trace(BaseModel):
    model_config = ConfigDict(extra="forbid")
    displayTimeUnit: Literal["ms", "ns"]  # noqa: N815 - the format's word
    otherData: dict[str, str | int | float]  # noqa: N815
    traceEvents: list[Complete | Sample | Name]  # noqa: N815


def read(path: Path) -> tuple[Trace, dict[str, list[Complete]], list[Sample]]:
    """The whole, the slices of each thread by its name, and the samples of counters."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    trace = TypeAdapter(Trace).validate_python(json.loads(text))
    events = trace.traceEvents
    names = {e.tid: e.args["name"] for e in events if e.ph == "M" and e.name == "thread_name"}
    threads: dict[str, list[Complete]] = defaultdict(list)
    for event in events:
        if event.ph == "X":
            threads[names[event.tid]].append(event)
    return trace, threads, [event for event in events if event.ph == "C"]


def traced(result, tmp_path: Path, **options):
    write_trace(result, tmp_path / "trace.json", **options)
    return read(tmp_path / "trace.json")


def layers_and_ports(threads) -> tuple[list[Complete], dict[str, list[Complete]]]:
    ports = {name: [s for s in slices if s.cat != "layer"] for name, slices in threads.items()}
    return [s for s in threads["PE array"] if s.cat == "layer"], ports


@pytest.fixture(scope="module", params=["ideal-64k", "ideal-64k-double", "ideal-64k-split"])
def result(request) -> NetworkResult:
    """Three layers; the last one has long loops, so its timeline repeats, and it runs twice."""
    build = NetworkBuilder("tiny", input_shape=(1, 12, 12, 8))
    x = build.conv("conv1", "input", 16, kernel=3, padding=1)
    x = build.conv("conv2", x, 32, kernel=3, padding=1)
    build.conv("conv3", x, 32, kernel=1)
    mappings = {
        "conv2": Mapping("CKP", {"C": 8, "K": 16, "P": 5}),
        "conv3": Mapping("PQ", {"P": 1, "Q": 1}),
    }
    arch = replace(load_arch(request.param), "dram.burst", "4 B")
    run = simulate_layers(build.network(), arch, BFP8, mappings)
    assert run.layers[2].timeline.rows < len(run.layers[2].timeline)
    first, second, third = run.layers
    return NetworkResult("tiny", run.arch, (first, second, repeated(third, 2)), run.simulations)


def within(slices: list[Complete], outer: Complete) -> list[Complete]:
    return [s for s in slices if outer.ts <= s.ts and s.ts + s.dur <= outer.ts + outer.dur]


def test_every_layers_durations_are_the_simulated_cycles(result, tmp_path) -> None:
    layers, ports = layers_and_ports(traced(result, tmp_path)[1])
    assert [outer.name for outer in layers] == ["conv1", "conv2", "conv3", "conv3"]
    runs = [(layer, layer.repeats) for layer in result.layers for _ in range(layer.repeats)]
    for outer, (layer, times) in zip(layers, runs, strict=True):
        assert outer.dur * times == layer.cycles
        spent = Counter[str]()
        for piece in within(ports["PE array"], outer):
            spent[piece.name] += piece.dur
        assert spent.pop("compute") * times == layer.compute_cycles
        waits = {f"wait {tensor}": cycles // times for tensor, cycles in layer.stalls.items()}
        assert spent == {name: cycles for name, cycles in waits.items() if cycles}
        channel = within(ports["DRAM channel"], outer)
        assert sum(piece.dur for piece in channel) * times == layer.dram_busy_cycles
        assert len(channel) * times == layer.transfers
        bits = sum(int(piece.args["bits"]) for piece in channel)
        assert bits * times == layer.counts.total("DRAM")
        for tensor in "IWO":
            moved = sum(int(s.args["bits"]) for s in within(ports[f"DMA {tensor}"], outer))
            assert moved * times == layer.counts.total("DRAM", tensor)
    assert sum(outer.dur for outer in layers) == result.cycles


def test_slices_of_a_port_follow_each_other_and_layers_enclose(result, tmp_path) -> None:
    layers, ports = layers_and_ports(traced(result, tmp_path)[1])
    assert set(ports) == {"PE array", "DMA I", "DMA W", "DMA O", "DRAM channel"}
    for slices in (layers, *ports.values()):
        ordered = sorted(slices, key=lambda piece: piece.ts)
        for one, other in pairwise(ordered):
            assert one.ts + one.dur <= other.ts
    for slices in ports.values():
        assert sum(len(within(slices, outer)) for outer in layers) == len(slices)
    array = sorted(ports["PE array"], key=lambda piece: piece.ts)
    assert all(one.ts + one.dur == other.ts for one, other in pairwise(array))  # no gap


def test_buffers_fill_to_no_more_than_their_capacity_and_empty(result, tmp_path) -> None:
    _, threads, samples = traced(result, tmp_path)
    layers, _ = layers_and_ports(threads)
    ends = {outer.ts + outer.dur for outer in layers}
    counters: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        counters[sample.name].append(sample)
    tensors = ["I", "W", "O"]
    shared = result.arch.shared
    names = ["SRAM [bit]"] if shared else [f"SRAM {tensor} [bit]" for tensor in tensors]
    assert list(counters) == names
    for name, values in counters.items():
        capacity = result.arch.buffer("I" if shared else name.split()[1]).capacity
        assert [v.ts for v in values] == sorted(v.ts for v in values)
        for value in values:
            assert 0 <= value.args["held"] <= capacity
            if shared:
                assert value.args["held"] == sum(value.args[tensor] for tensor in tensors)
        at_ends = {v.ts: v.args["held"] for v in reversed(values) if v.ts in ends}
        assert at_ends == dict.fromkeys(ends, 0)
        assert values[-1].args["held"] == 0
        assert max(v.args["held"] for v in values) > 0


def test_time_and_content_are_told_in_the_file(result, tmp_path) -> None:
    about = traced(result, tmp_path)[0].otherData
    slices = sum(len(layer.timeline) * layer.repeats for layer in result.layers)
    assert about == {
        "network": "tiny",
        "arch": result.arch.name,
        "time": "1 us is 1 cycle",
        "clock_hz": 5e8,
        "cycles": result.cycles,
        "slices": slices,
        "slices_left_out": 0,
    }


def test_a_single_layer_can_be_traced(result, tmp_path) -> None:
    layer = result.layers[1]
    layers, ports = layers_and_ports(traced(layer, tmp_path)[1])
    assert [outer.name for outer in layers] == ["conv2"]
    assert layers[0].args == {"mapping": str(layer.mapping), "formats": "bfp8e3b16"}
    assert sum(map(len, ports.values())) == len(layer.timeline)


def test_equal_results_make_equal_bytes_packed_or_not(result, tmp_path) -> None:
    for name in ("one.json", "two.json", "one.json.gz", "two.json.gz"):
        write_trace(result, tmp_path / name)
    one = (tmp_path / "one.json").read_bytes()
    packed = (tmp_path / "one.json.gz").read_bytes()
    assert one == (tmp_path / "two.json").read_bytes() == gzip.decompress(packed)
    assert packed == (tmp_path / "two.json.gz").read_bytes()
    assert packed[4:8] == bytes(4), "gzip's place for the time"
    assert len(packed) < len(one) / 5


def test_too_many_slices_are_left_out_with_a_warning(result, tmp_path) -> None:
    whole = traced(result, tmp_path)[1]
    first, second = (len(layer.timeline) for layer in result.layers[:2])
    most = first + second + 7
    with pytest.warns(UserWarning, match=rf"trace.json: holds the first {most} of [0-9,]+ slices"):
        trace, threads, samples = traced(result, tmp_path, most=most)
    layers, ports = layers_and_ports(threads)
    assert layers == layers_and_ports(whole)[0]  # of every layer, written or not
    assert sum(map(len, ports.values())) == most
    assert trace.otherData["slices_left_out"] == trace.otherData["slices"] - most
    assert max(sample.ts for sample in samples) < layers[2].ts + layers[2].dur
    assert {s.ts for s in samples if s.ts <= layers[1].ts + layers[1].dur}
    with pytest.warns(UserWarning, match="holds the first 0 of"):
        _, threads, samples = traced(result, tmp_path, most=0)
    assert sum(map(len, threads.values())) == 4
    assert not samples


def test_a_long_timeline_is_unrolled_only_as_far_as_it_is_written(tmp_path, monkeypatch) -> None:
    """A hundred million slices in a few rows, of which ten are asked for."""
    arch = replace(load_arch("ideal-64k"), "dram.burst", "1 bit")
    build = NetworkBuilder("tiny", input_shape=(1, 4, 4, 8))
    build.conv("conv", "input", 16, kernel=1)
    (layer,) = simulate_layers(build.network(), arch, BFP8).layers
    row, length = layer.timeline.rows, len(layer.timeline)
    layer.timeline.add("dram", "read", 1000, 1001, 8, 1, "I")
    still = dict.fromkeys(("I", "W", "O", "steps"), 0)
    layer.timeline.repeat(row, length, 100_000_000, 2, still)
    given = 0
    real = Timeline.__iter__

    def counting(timeline):
        nonlocal given
        for piece in real(timeline):
            given += 1
            yield piece

    monkeypatch.setattr(Timeline, "__iter__", counting)
    with pytest.warns(UserWarning, match="holds the first 10 of 100,000,"):
        traced(layer, tmp_path, most=10)
    assert given <= 20  # slices, and what buffers hold at them


def test_a_file_of_another_kind_or_place_is_refused(result, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"trace\.txt: allowed: a name that ends in \.json or"):
        write_trace(result, tmp_path / "trace.txt")
    with pytest.raises(OSError, match="No such file"):
        write_trace(result, tmp_path / "nowhere" / "trace.json")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_trace_leaves_the_old_one(result, tmp_path, monkeypatch) -> None:
    path = tmp_path / "trace.json"
    path.write_text("old")
    calls = 0

    def stop(*arguments):
        nonlocal calls
        calls += 1
        if calls > 3:
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr("bfpsim.reports.trace.occupancy", stop)
    with pytest.raises(KeyboardInterrupt):
        write_trace(result, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_with_data_has_the_same_trace(tmp_path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    build = NetworkBuilder("tiny", input_shape=(1, 6, 6, 8))
    build.conv("conv", "input", 16, kernel=3, padding=1)
    layer, arch = build.network().layers[0], load_arch("ideal-16k")
    mapping = Mapping("PQ", {"P": 1, "Q": 2})
    data = rng.normal(size=layer.input_shape), rng.normal(size=layer.weight_shape)
    write_trace(simulate(layer, arch, mapping, BFP8), tmp_path / "sizes.json")
    write_trace(simulate(layer, arch, mapping, BFP8, data), tmp_path / "data.json")
    sizes, values = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("sizes", "data"))

    def key(event: dict) -> str:
        return json.dumps(event, sort_keys=True)

    assert sorted(sizes["traceEvents"], key=key) == sorted(values["traceEvents"], key=key)


def test_counters_are_of_sram_whatever_lies_inside_it(deep, tmp_path) -> None:
    """Tiles of inner levels have no events of their own: their time is in that of their steps."""
    result = deep.simulated
    _, threads, samples = traced(result, tmp_path)
    assert {sample.name for sample in samples} == {"SRAM [bit]"}
    layers, ports = layers_and_ports(threads)
    spent = sum(piece.dur for piece in ports["PE array"] if piece.name == "compute")
    assert spent == result.compute_cycles > sum(one.steady_cycles for one in result.layers)
    assert sum(outer.dur for outer in layers) == result.cycles
