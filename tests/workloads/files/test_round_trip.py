"""What is written is read back the same, by both formats, and by others' readers."""

import csv
import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from bfpsim.workloads import (
    OPS,
    ConvLayer,
    Network,
    Node,
    WorkloadError,
    load_workload,
    names,
    save_workload,
)
from bfpsim.workloads.files.network_csv import HEADER
from bfpsim.workloads.files.row import Row, brief_values, network_of
from tests.workloads.networks_random import networks, random_network

SUFFIXES = ("yaml", "yml", "csv")


@settings(max_examples=150, deadline=None)
@given(network=networks(), suffix=st.sampled_from(["yaml", "csv"]))
def test_random_networks_come_back_identical(tmp_path_factory, network, suffix):
    path = tmp_path_factory.mktemp("networks") / f"one.{suffix}"
    save_workload(network, path)
    first = path.read_bytes()
    again = load_workload(path)
    assert again == network
    assert [again.shape(node.name) for node in again.nodes] == [
        network.shape(node.name) for node in network.nodes
    ]
    save_workload(again, path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_formats_give_a_meaning_come_back(tmp_path, suffix):
    """Each alone and inside others; the list grew from what writers of YAML and CSV lost."""
    odd = [
        "?b",
        "- a",
        "a: b",
        "#",
        " #a",
        "[",
        "{a",
        "&a",
        "*a",
        "!a",
        "|",
    ]
    odd += ["%a", "@a", "`", "'", '"', "a;b", ";", "a,b", " a ", "=a", "'=a", "''+a", "-1", "'-1"]
    odd += ["-", "+1e3", "@", "\u3000a", "\U0001f600", "null", "~", "yes", "1", "0x1", "1e3", "<<"]
    names = [f"{name}{mark}" for name in odd for mark in ("", "x") if f"{name}{mark}".strip()]
    nodes = [Node(name, "input", input_shape=(1, 1, 1, 1)) for name in names]
    nodes.append(Node("all", "concat", tuple(names)))
    network = Network(odd[0], tuple(nodes))
    save_workload(network, tmp_path / f"net.{suffix}")
    assert load_workload(tmp_path / f"net.{suffix}") == network


def test_random_networks_have_every_operation_and_kind():
    kinds = Counter()
    for seed in range(200):
        rng = random.Random(seed)
        kinds.update(node.kind for node in random_network(rng, [f"n{i}" for i in range(12)]).nodes)
    assert set(kinds) == {*OPS, "grouped", "depthwise"}
    assert min(kinds.values()) > 20


@pytest.mark.parametrize("name", names())
def test_every_shipped_network_comes_back_identical(tmp_path, name):
    network = load_workload(name)
    save_workload(network, tmp_path / "net.csv")
    assert load_workload(tmp_path / "net.csv") == network
    assert network_of(name, brief_rows(network)) == network


@pytest.mark.long
@pytest.mark.parametrize("name", names())
def test_every_shipped_network_comes_back_identical_from_yaml(tmp_path, name):
    """Large ones take YAML's reader seconds; without it, the test above reads the same rows."""
    save_workload(load_workload(name), tmp_path / "net.yaml")
    assert load_workload(tmp_path / "net.yaml") == load_workload(name)


def brief_rows(network: Network) -> list[Row]:
    """What a YAML file holds, as text, without the file."""
    rows = []
    for number, node in enumerate(network.nodes):
        values = brief_values(node, {name: network.shape(name) for name in node.inputs})
        cells = {
            key: tuple(map(str, value))
            if isinstance(value, list)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
            for key, value in values.items()
        }
        rows.append(Row("net.yaml", number, cells, {}))
    return rows


def product() -> Network:
    """A matrix product whose rows and columns are not those of its input."""
    nodes = (
        Node("q", "input", input_shape=(2, 3, 4, 8)),
        Node("k", "input", input_shape=(2, 1, 6, 8)),
        Node(
            *("qk", "matmul", ("q", "k")),
            layer=ConvLayer("qk", K=6, C=4, P=1, Q=12, G=2),
            repeats=2,
        ),
    )
    return Network("product", nodes)


def windows() -> Network:
    """A matrix product of one sample in four windows."""
    nodes = (
        Node("q", "input", input_shape=(1, 3, 8, 8)),
        Node("k", "input", input_shape=(1, 4, 6, 8)),
        Node(
            *("qk", "matmul", ("q", "k")),
            layer=ConvLayer("qk", K=6, C=4, P=2, Q=3, G=2),
            repeats=4,
        ),
    )
    return Network("windows", nodes)


@pytest.mark.parametrize("network", [product(), windows()], ids=lambda network: network.name)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_product_of_other_rows_than_its_input_comes_back(tmp_path, network, suffix):
    save_workload(network, tmp_path / f"net.{suffix}")
    assert load_workload(tmp_path / f"net.{suffix}") == network


def test_yaml_is_brief_and_typed_for_other_readers(tmp_path):
    save_workload(product(), tmp_path / "net.yaml")
    assert (tmp_path / "net.yaml").read_text() == (
        "name: product\n"
        "nodes:\n"
        "- {name: q, op: input, shape: [2, 3, 4, 8]}\n"
        "- {name: k, op: input, shape: [2, 1, 6, 8]}\n"
        "- {name: qk, op: matmul, inputs: [q, k], G: 2, K: 6, P: 1, Q: 12}\n"
    )
    save_workload(load_workload("resnet18"), tmp_path / "net.yaml")
    read = YAML(typ="safe", pure=True).load((tmp_path / "net.yaml").read_text())
    assert read["nodes"][1] == {
        "name": "conv1", "op": "conv", "inputs": ["input"],
        "K": 64, "R": 7, "S": 7, "stride": 2, "padding": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["resnet18", "googlenet"])
def test_csv_has_every_size_for_spreadsheets(tmp_path, name):
    network = load_workload(name)
    save_workload(network, tmp_path / "net.csv")
    with open(tmp_path / "net.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == HEADER
    assert len(rows) == len(network.nodes)
    columns = [header.index(dim) for dim in "NGKCPQRS"]
    macs = sum(math.prod(int(row[at]) for at in columns) for row in rows if row[columns[0]])
    assert macs == network.macs


@pytest.mark.parametrize("suffix", ["yaml", "csv"])
def test_a_file_cut_anywhere_is_refused_or_ends_with_a_whole_node(tmp_path, suffix):
    whole = random_network(random.Random(5), [f"n{i}" for i in range(5)])
    path = tmp_path / f"net.{suffix}"
    save_workload(whole, path)
    data, read, refusals = path.read_bytes(), 0, []
    assert len(whole.nodes) > 3
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            part = load_workload(path)
        except WorkloadError as error:
            refusals.append(str(error))
        else:
            read += 1
            assert part == Network(whole.name, whole.nodes[: len(part.nodes)])
    assert all(line.startswith(str(path)) and "\n" not in line for line in refusals)
    assert read >= len(whole.nodes) - 1


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "net.yaml"
    save_workload(product(), path)
    old = path.read_bytes()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(WorkloadError, match=r"net\.yaml: cannot be written: No space left"):
        save_workload(load_workload("resnet18-fashion"), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_what_no_file_can_hold_is_refused(tmp_path):
    with pytest.raises(WorkloadError, match=r"ending '\.txt' is refused; allowed: \.yaml, \.yml"):
        save_workload(product(), tmp_path / "net.txt")
    with pytest.raises(WorkloadError, match=r"cannot be written: No such file or directory"):
        save_workload(product(), tmp_path / "nowhere" / "net.csv")
    assert not list(tmp_path.iterdir())
