"""Layers and networks: what is run on an accelerator.

Importing this package imports neither torch nor onnx: only training and the importers need them.
"""

from bfpsim.workloads.builder import NetworkBuilder
from bfpsim.workloads.catalog import names
from bfpsim.workloads.checkpoint import (
    LayerWeights,
    load_images,
    load_metadata,
    load_weights,
    normalise,
    save_images,
    save_weights,
)
from bfpsim.workloads.images import (
    FashionMnist,
    Images,
    read_fashion_mnist,
    read_idx,
    read_images,
)
from bfpsim.workloads.layer import ConvLayer, Pair, Shape, WorkloadError, output_extent, span
from bfpsim.workloads.load import (
    GraphSource,
    NetworkSource,
    Shapes,
    load_graph,
    load_with_weights,
    load_workload,
    save_workload,
)
from bfpsim.workloads.network import Network
from bfpsim.workloads.networks.googlenet import googlenet
from bfpsim.workloads.networks.resnet import resnet18
from bfpsim.workloads.node import LAYER_OPS, OPS, Node, Op, Pool
from bfpsim.workloads.shipped import shipped_images, shipped_metadata, shipped_weights
from bfpsim.workloads.transposed import Phase, phases

__all__ = [
    "LAYER_OPS",
    "OPS",
    "ConvLayer",
    "FashionMnist",
    "GraphSource",
    "Images",
    "LayerWeights",
    "Network",
    "NetworkBuilder",
    "NetworkSource",
    "Node",
    "Op",
    "Pair",
    "Phase",
    "Pool",
    "Shape",
    "Shapes",
    "WorkloadError",
    "googlenet",
    "load_graph",
    "load_images",
    "load_metadata",
    "load_weights",
    "load_with_weights",
    "load_workload",
    "names",
    "normalise",
    "output_extent",
    "phases",
    "read_fashion_mnist",
    "read_idx",
    "read_images",
    "resnet18",
    "save_images",
    "save_weights",
    "save_workload",
    "shipped_images",
    "shipped_metadata",
    "shipped_weights",
    "span",
]
