"""The plan of a sweep: from its settings to its points."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, get_args

from bfpsim.arch import Arch, ArchError, load_arch, replace_all
from bfpsim.mapping.mapper import Model
from bfpsim.mapping.objective import Objective
from bfpsim.quant.formats import FormatError, LayerFormats, layer_formats
from bfpsim.search.sweep.point import Point
from bfpsim.search.sweep.spec import Loc, Setting, Source, Spec, SweepError
from bfpsim.sim.simulate import Layers
from bfpsim.workloads import Network, WorkloadError, load_workload
from bfpsim.workloads.load import runs_code

T = TypeVar("T")
N = TypeVar("N", Arch, Network)

_CHOICES = ("arch", "network", "format", "objective", "model", "layers")
"""Axes that are no path into the architecture; the first three have no default."""
_MOST_POINTS = 1_000_000


def plan(spec: Spec) -> tuple[Point, ...]:
    """Every point of a sweep, in the order of its tables.

    Raises SweepError for a setting, or a combination of settings, that makes no point: before
    anything runs.
    """
    if (count := spec.count()) > _MOST_POINTS:
        raise spec.source.error((), f"has {count} points; allowed: at most {_MOST_POINTS}")
    planner = _Planner(spec.source, spec.ladder)
    return tuple(planner.point(settings) for settings in spec.settings())


class _Planner:
    """Makes points; what settings stand for is loaded and checked once."""

    def __init__(self, source: Source, ladder: bool) -> None:
        self._source, self._ladder = source, ladder
        self._known: dict[Hashable, Any] = {}
        self._names: dict[tuple[str, str], tuple[Loc, Any]] = {}

    def point(self, settings: Sequence[Setting]) -> Point:
        chosen: dict[str, Setting] = {}
        for one in settings:
            if one.axis in chosen:
                raise self._source.error(
                    one.loc, f"{one.axis} is given by {chosen[one.axis].loc[0]} too; allowed: once"
                )
            chosen[one.axis] = one
        for axis in ("arch", "network", "format"):
            if axis not in chosen:
                key = axis if axis == "arch" else f"{axis}s"
                raise self._source.error((), f"{key} is missing; allowed: {key}, or an axis {axis}")
        network = self._unique(chosen["network"], self._once(chosen["network"], self._network))
        formats: LayerFormats = self._once(chosen["format"], layer_formats)
        hardware = [one for one in settings if one.axis not in _CHOICES]
        point = Point(
            network,
            self._arch(chosen["arch"], hardware),
            (formats,) * len(network.layers),
            self._once(chosen["objective"], _objective) if "objective" in chosen else "dram",
            self._once(chosen["model"], _model) if "model" in chosen else "full",
            self._ladder,
            tuple((one.axis, one.value) for one in hardware),
            self._once(chosen["layers"], _layers) if "layers" in chosen else "alone",
        )
        if point.layers == "program":
            for axis, value, only in (
                ("objective", point.objective, "dram"),
                ("model", point.model, "full"),
            ):
                if value != only:
                    wrong = f"{value!r} is of layers alone; allowed with layers: program: {only}"
                    raise self._source.error(chosen[axis].loc, wrong)
        return point

    def _network(self, value: Any) -> Network:
        if not self._source.trusted and runs_code(value):
            raise SweepError(
                f"{value!r} would be run as it is loaded; allowed: a network's name or file, or "
                "--trust"
            )
        network = value if isinstance(value, Network) else load_workload(value)
        network.check_layers()
        return network

    def _arch(self, base: Setting, hardware: Sequence[Setting]) -> Arch:
        """The base architecture with the settings made, those of one part of it at once.

        One by one, two that only go together would be refused.
        """
        arch = self._unique(base, self._once(base, load_arch))
        parts: dict[str, list[Setting]] = {}
        for one in hardware:
            parts.setdefault(one.axis.partition(".")[0], []).append(one)
        path: tuple[Loc, ...] = (base.loc,)
        for changes in parts.values():
            path += tuple(one.loc for one in changes)
            if path not in self._known:
                self._known[path] = self._replace(arch, changes)
            arch = self._known[path]
        return arch

    def _replace(self, arch: Arch, changes: Sequence[Setting]) -> Arch:
        try:
            return replace_all(arch, {one.axis: one.value for one in changes})
        except ArchError as error:
            named = (one for one in changes if one.axis in str(error))
            raise self._source.error(next(named, changes[-1]).loc, error) from None

    def _unique(self, setting: Setting, value: N) -> N:
        """The thing that a setting stands for, which has a name of its own in tables."""
        name = value.name
        loc, first = self._names.setdefault((setting.axis, name), (setting.loc, value))
        if value is not first and value != first:
            other = ".".join(str(key) for key in loc)
            raise self._source.error(
                setting.loc,
                f"is not what {other} is, but has its name, {name!r}; allowed: a name for each",
            )
        return value

    def _once(self, setting: Setting, make: Callable[[Any], T]) -> T:
        """The thing that a setting stands for."""
        if setting.loc not in self._known:
            try:
                self._known[setting.loc] = make(setting.value)
            except (ArchError, WorkloadError, FormatError, SweepError) as error:
                raise self._source.error(setting.loc, error) from None
        value: T = self._known[setting.loc]
        return value


def _objective(value: Any) -> Objective:
    objective: Objective = _one_of(value, get_args(Objective))
    return objective


def _model(value: Any) -> Model:
    model: Model = _one_of(value, get_args(Model))
    return model


def _layers(value: Any) -> Layers:
    layers: Layers = _one_of(value, get_args(Layers))
    return layers


def _one_of(value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise SweepError(f"{value!r} is refused; allowed: {', '.join(allowed)}")
    return value
