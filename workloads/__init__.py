"""Layers and networks: what is run on an accelerator.

Importing this package does not import torch; only `workloads.training` needs it.
"""

from workloads.catalog import load_workload, names
from workloads.checkpoint import (
    LayerWeights,
    load_images,
    load_metadata,
    load_weights,
    normalise,
    save_images,
    save_weights,
    shipped_images,
    shipped_metadata,
    shipped_weights,
)
from workloads.googlenet import googlenet
from workloads.idx import FashionMnist, read_fashion_mnist, read_idx
from workloads.images import Images, read_images
from workloads.layer import ConvLayer, Pair, Shape, WorkloadError, output_extent, span
from workloads.network import Network, NetworkBuilder, Node, Op, Pool
from workloads.resnet import resnet18

__all__ = [
    "ConvLayer",
    "FashionMnist",
    "Images",
    "LayerWeights",
    "Network",
    "NetworkBuilder",
    "Node",
    "Op",
    "Pair",
    "Pool",
    "Shape",
    "WorkloadError",
    "googlenet",
    "load_images",
    "load_metadata",
    "load_weights",
    "load_workload",
    "names",
    "normalise",
    "output_extent",
    "read_fashion_mnist",
    "read_idx",
    "read_images",
    "resnet18",
    "save_images",
    "save_weights",
    "shipped_images",
    "shipped_metadata",
    "shipped_weights",
    "span",
]
