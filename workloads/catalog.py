"""The networks that are shipped by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches

from workloads.layer import WorkloadError
from workloads.network import Network
from workloads.networks.googlenet import googlenet
from workloads.networks.resnet import resnet18


def names() -> tuple[str, ...]:
    """Return the shipped networks' names."""
    return tuple(_NETWORKS)


def load_workload(name: str) -> Network:
    """Return the shipped network of that name, batch 1.

    Raises `WorkloadError`, with the names there are and the nearest one, for any other.
    """
    if name not in _NETWORKS:
        near = get_close_matches(str(name), _NETWORKS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise WorkloadError(f"workload {name!r} must be one of {', '.join(_NETWORKS)}{hint}")
    return replace(_NETWORKS[name](), name=name)


def _resnet18_fashion() -> Network:
    return resnet18(width=16, size=28, channels=1, classes=10, stem="small")


_NETWORKS: dict[str, Callable[[], Network]] = {
    "googlenet": googlenet,
    "resnet18": resnet18,
    "resnet18-fashion": _resnet18_fashion,
}
