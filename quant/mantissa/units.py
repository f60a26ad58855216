"""The building blocks of a network: residual blocks, inceptions, encoder layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from bfpsim.workloads.importers.torch.sites import Site

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LEAST = 2  # layers of a block


@dataclass(frozen=True, slots=True)
class Unit:
    """A block, or a layer that is in none.

    name: the block's path in the module, or the layer's name
    layers: names of its layers with stored weights, in execution order
    path: the block's path; "" for a layer in none
    attention: whether it multiplies activations, as encoder layers do
    """

    name: str
    layers: tuple[str, ...]
    path: str
    attention: bool

    @property
    def parts(self) -> dict[str, str]:
        """An encoder layer's own layers by their names in it: qkv, projection, fc1, fc2."""
        return {name.removeprefix(f"{self.path}."): name for name in self.layers if self.attention}


def find_units(module: nn.Module, sites: Sequence[Site]) -> tuple[Unit, ...]:
    """The units of a module, in execution order; every layer with stored weights is in one.

    The rule, from the outside in: the module itself, lists (``Sequential``, ``ModuleList``,
    ``ModuleDict``) and what holds a list with two or more members of two or more layers each (an
    encoder, a stage) are looked into; any other submodule with two or more layers is a block;
    every other layer is a unit of its own.

    module: what was captured
    sites: of the capture
    """
    stored = [site for site in sites if site.kind != "matmul"]
    paths = tuple(_blocks(module, "", [site.owner for site in stored]))
    members: dict[str, list[Site]] = {}
    for site in stored:
        path = _holder(site, paths)
        members.setdefault(path or site.name, []).append(site)
    attentive = {_holder(site, paths) for site in sites if site.kind == "matmul"}
    return tuple(
        Unit(
            name,
            tuple(site.name for site in layers),
            name if name in paths else "",
            name in attentive,
        )
        for name, layers in members.items()
    )


def under(path: str, ancestor: str) -> bool:
    """Whether a submodule's path is an ancestor's, or lies in it; "" holds every path."""
    return path == ancestor or not ancestor or path.startswith(f"{ancestor}.")


def _blocks(module: nn.Module, path: str, owners: Sequence[str]) -> Iterator[str]:
    for name, child in module.named_children():
        inside = f"{path}.{name}" if path else name
        layers = _layers(inside, owners)
        if layers < _LEAST:
            continue
        if isinstance(child, _LISTS) or _holds_blocks(child, inside, owners):
            yield from _blocks(child, inside, owners)
        else:
            yield inside


def _holds_blocks(module: nn.Module, path: str, owners: Sequence[str]) -> bool:
    lists = (
        (f"{path}.{name}", part)
        for name, part in module.named_modules()
        if isinstance(part, _LISTS)
    )
    return any(
        sum(_layers(f"{inside}.{name}", owners) >= _LEAST for name, _ in part.named_children()) >= 2
        for inside, part in lists
    )


def _layers(path: str, owners: Iterable[str]) -> int:
    return sum(under(owner, path) for owner in owners)


def _holder(site: Site, paths: Iterable[str]) -> str:
    return next((path for path in paths if under(site.owner, path)), "")
