"""Options that say under which mappings a network runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bfpsim.commands.arguments import UsageError, select, tile_sizes
from bfpsim.mapping.objective import Objective

if TYPE_CHECKING:
    from bfpsim.arch import Arch
    from bfpsim.mapping.nest import Mapping
    from bfpsim.workloads import Network


@dataclass(frozen=True)
class MappingOptions:
    """The mapper's mappings, those of a file, or one spelled out for one layer."""

    objective: Annotated[
        Objective | None,
        typer.Option(help="What the mapper makes least, bursts included; dram if not given."),
    ] = None
    mappings: Annotated[
        Path | None,
        typer.Option(
            help="A mapping for every layer in place of the mapper's: a YAML file such as "
            "`bfpsim map --out FILE.yaml` writes.",
            metavar="FILE",
        ),
    ] = None
    layer: Annotated[
        str | None,
        typer.Option(help="Only this layer; needed for --order, --tile and --inner."),
    ] = None
    order: Annotated[
        str | None, typer.Option(help="Loop order between tiles, outer to inner, e.g. KPQC.")
    ] = None
    tile: Annotated[
        str | None, typer.Option(help="Tile sizes, e.g. K=16,C=64; others are whole.")
    ] = None
    inner: Annotated[
        list[str] | None,
        typer.Option(
            help="Order and tile sizes at a level inside SRAM, e.g. acc:PQ:P=4,Q=56; give one for "
            "each.",
            metavar="LEVEL:ORDER:TILE",
        ),
    ] = None

    @property
    def spelled(self) -> bool:
        """Whether a mapping of one layer is spelled out."""
        return not (self.order is None and self.tile is None and not self.inner)

    def check(self) -> None:
        """Raise UsageError, before the work, for options that do not go together."""
        if self.layer is None and self.spelled:
            raise UsageError("--order, --tile and --inner need --layer")
        if self.mappings is not None and self.spelled:
            raise UsageError("--mappings and --order, --tile, --inner exclude each other")
        if self.objective is not None and (self.spelled or self.mappings is not None):
            raise UsageError(
                "--objective is of mappings that are looked for; leave it out with --mappings, "
                "--order, --tile and --inner"
            )

    def choose(self, network: Network, arch: Arch) -> tuple[Network, dict[str, Mapping] | None]:
        """The network, or one layer of it as a network, and the mappings given for it."""
        chosen = select(network, self.layer)
        if self.mappings is not None:
            from bfpsim.mapping.file import load_mappings

            needed = [layer.name for layer in chosen.layers]
            return chosen, load_mappings(self.mappings, network, arch, needed)
        if self.layer is None or not self.spelled:
            return chosen, None
        from bfpsim.mapping.nest import Mapping

        tile = tile_sizes("--tile", self.tile)
        return chosen, {self.layer: Mapping(self.order or "", tile, _inner(self.inner or []))}


def _inner(options: list[str]) -> dict[str, Mapping]:
    """Level -> mapping, of all --inner options."""
    from bfpsim.mapping.nest import Mapping

    inner: dict[str, Mapping] = {}
    for option in options:
        level, *parts = option.split(":")
        if not level or len(parts) != 2:
            raise UsageError(
                f"--inner {option!r}; allowed: LEVEL:ORDER:TILE, such as acc:PQ:P=4,Q=56"
            )
        if level in inner:
            raise UsageError(f"--inner names {level!r} twice; allowed: once")
        inner[level] = Mapping(parts[0], tile_sizes(f"--inner {level}:", parts[1]))
    return inner
