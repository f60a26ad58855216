"""Whatever is wrong in a file: one line with file, line, node, key, value, and what is allowed."""

import csv
import io
import os

import pytest

from bfpsim.workloads import WorkloadError, load_workload, save_workload
from bfpsim.workloads.builder import NetworkBuilder

YAML = """\
name: tiny
nodes:
- {name: image, op: input, shape: [1, 8, 8, 4]}
- {name: conv1, op: conv, inputs: [image], K: 8, R: 3, S: 3, padding: 1}
- name: pool
  op: maxpool
  inputs: conv1
  R: 2
  S: 2
  stride: 2
- {name: up, op: host, inputs: [pool], function: resize, shape: [1, 8, 8, 8], macs: 4}
"""
HUGE = """\
name: huge
nodes:
- {name: i, op: input, shape: [1, 1, 1000000000, 1000000000]}
- {name: c, op: linear, inputs: [i], K: 1000000000}
"""
RELU = "- {name: relu, op: relu, inputs: [conv1]}\n"


def refused(path) -> str:
    with pytest.raises(WorkloadError) as caught:
        load_workload(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_a_file_written_by_hand_is_the_network_it_says(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML + RELU.replace("conv1", "'conv1'"), "utf-8-sig")
    build = NetworkBuilder("tiny", (1, 8, 8, 4))
    x = build.conv("conv1", "input", 8, 3, padding=1)
    x = build.maxpool("pool", x, 2, stride=2)
    build.host("up", "resize", x, shape=(1, 8, 8, 8), macs=4)
    build.relu("relu", "conv1")
    nodes = load_workload(path).nodes
    assert nodes[0].name == "image"
    assert nodes[1].layer == build.network().nodes[1].layer
    assert nodes[2:] == build.network().nodes[2:]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("K: 8", "K: 0", ":4: node 'conv1': K: '0' is refused; allowed: a whole number from 1"),
        ("K: 8", "K: -8", ":4: node 'conv1': K: '-8' is refused"),
        ("K: 8", "K: 8.0", "K: '8.0' is refused; allowed: a whole number"),
        ("K: 8", "K: [8]", None),
        ("K: 8", "K: [8, 8]", "K: ['8', '8'] is refused"),
        ("K: 8", "K: " + "9" * 5000, "999...999"),
        ("K: 8, ", "", ":4: node 'conv1': K is missing; allowed: a whole number from 1"),
        (
            "K: 8",
            "k: 8",
            "key 'k' is refused (did you mean 'K'?); allowed for conv: name, op, inp",
        ),
        ("K: 8", "paddin: 8", "key 'paddin' is refused (did you mean 'padding'?)"),
        ("K: 8", "K: 8, K: 9", ":4: key 'K' stands twice; allowed: once"),
        ("K: 8", "K: 8, C: 5", "C: '5' is refused; allowed: 4, which follows from its input"),
        ("K: 8", "K: 8, P: 8, H: 8, C: 4, N: 1", None),
        ("K: 8", "K: 8, G: 3", ":4: layer 'conv1': groups=3 must divide the 4 channels in"),
        ("R: 3", "R: 30", ":4: layer 'conv1': H=8 must be at least 28"),
        ("padding: 1", "padding: [1, 1, 1]", "allowed: 1 or 2 or 4 whole numbers, each from 0"),
        ("padding: 1", "padding: {top: 1}", ":4: 'padding' holds too much; allowed: one value"),
        ("K: 8", "K: 99999999999", "tensor of 99999999999 x 4 x 3 x 3 elements; allowed: at most"),
        ("padding: 1", "padding: 999999999", "padding=999999999 must be at most 4194304"),
        ("macs: 4", "macs: 4, repeats: 2", "key 'repeats' is refused"),
        ("name: conv1", 'name: "c\\e[31m"', ":4: layer 'c\\x1b[31m': holds the control character"),
        ("function: resize", 'function: "a\\u202e"', "holds the control character '\\u202e'"),
        ("name: tiny", 'name: "t\\0"', ": network 't\\x00': holds the control character '\\x00'"),
        ("name: conv1", "name: " + 2000 * "c", "cccc'...: 2000 characters; allowed: at most 1000"),
        (YAML, HUGE, ":3: network 'huge': node 'i': input_shape: a tensor of 1 x 1 x 1000000000"),
        ("inputs: [image]", "inputs: [pool]", "inputs: ['pool'] is refused; allowed: names of"),
        ("inputs: [image]", "inputs: [conv1]", "inputs: ['conv1'] is refused"),
        ("inputs: [image]", "inputs: [imag]", "above this one (did you mean 'image'?)"),
        ("inputs: [image], ", "", ":4: node 'conv1': inputs is missing"),
        ("inputs: [image]", "inputs: [image, image]", ":4: network 'tiny': node 'conv1': conv re"),
        ("op: conv", "op: convolution", "op: 'convolution' is refused; allowed: one of input"),
        ("op: conv, ", "", ":4: node 'conv1': op is missing"),
        ("op: conv", "op: [conv]", "op: ['conv'] is refused; allowed: one text"),
        ("name: conv1", "name: ' '", "name: ' ' is refused; allowed: text that is not empty"),
        ("name: conv1", "name: image", ":4: network 'tiny': node 'image': name is taken"),
        ("  R: 2\n", "  R: two\n", ":8: node 'pool': R: 'two' is refused"),
        ("  R: 2\n", "", ":5: node 'pool': R is missing"),
        ("  R: 2\n", "  R: 9\n  padding: [4, 1]\n  ceil: true\n", None),
        ("  stride: 2\n", "", "stride is missing; allowed: 1 or 2 whole numbers, each from 1"),
        ("  stride: 2\n", "  stride: 2\n  ceil: yes\n", ":11: node 'pool': ceil: 'yes' is refus"),
        ("  stride: 2\n", "  stride: 2\n  dilation: 1\n", ":11: node 'pool': key 'dilation'"),
        ("shape: [1, 8, 8, 4]", "shape: [1, 8, 4]", "allowed: 4 whole numbers, each from 1"),
        ("shape: [1, 8, 8, 4]", "shape: [1, 8, 0, 4]", ":3: node 'image': shape: "),
        ("function: resize, ", "", ":11: network 'tiny': node 'up': host must have function"),
        ("macs: 4", "macs: -4", "macs: '-4' is refused; allowed: a whole number from 0"),
        ("name: tiny", "nam: tiny", ":1: key 'nam' is refused; allowed: name, nodes"),
        ("name: tiny\n", "", ": name is missing; allowed: name and nodes"),
        ("name: tiny", "name: ' '", ":1: name is refused; allowed: text that is not empty"),
        ("name: tiny", "name: tiny\nname: tiny", ":2: key 'name' stands twice"),
        ("name: tiny", "name: tiny\n[1]: 2", ":2: a key is no text"),
        (YAML[11:], "nodes: []\n", ":2: nodes is refused; allowed: a list of at least one node"),
        (YAML[11:], "nodes: {a: 1}\n", ":2: nodes is refused"),
        (YAML[11:], "nodes: [conv]\n", ":2: 'conv' is refused; allowed: keys and values"),
        (YAML, "- 1\n", ":1: a list is refused; allowed: keys and values"),
        (
            "name: tiny",
            "%YAML 1.9\n---\nname: tiny",
            ": is not valid YAML: version minor part can only",
        ),
        (YAML, "# nothing\n", ": is empty; allowed: name and nodes"),
        (YAML, " \n", ": is empty; allowed: a network"),
        (YAML, "", ": is empty"),
        ("name: tiny", "name: tiny\n---\nname: again", ":2: is not valid YAML: expected a single"),
        ("K: 8", "K: [8", "is not valid YAML"),
        ("K: 8", 'K: "\\xZZ"', "is not valid YAML"),
        ("K: 8", "K: \x07", "is not valid YAML"),
        ("K: 8", "K: " + 1000 * "[", ": is nested too deep"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_yaml(tmp_path, old, new, expected):
    assert YAML.count(old) == 1
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML.replace(old, new))
    if expected is None:
        assert load_workload(path).name == "tiny"
    else:
        assert expected in refused(path)


def cells(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


@pytest.fixture
def rows(tmp_path) -> list[list[str]]:
    """The CSV file of the network above: header, image, conv1, pool, up."""
    (tmp_path / "hand.yaml").write_text(YAML)
    save_workload(load_workload(tmp_path / "hand.yaml"), tmp_path / "hand.csv")
    return cells((tmp_path / "hand.csv").read_text())


def text_of(rows: list[list[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize(
    ("row", "column", "value", "expected"),
    [
        (2, "K", "0", ":3: node 'conv1': K: '0' is refused; allowed: a whole number from 1"),
        (2, "K", "", ":3: node 'conv1': K is missing"),
        (2, "K", "16", None),
        (2, "C", "", None),
        (2, "C", "5", ":3: node 'conv1': C: '5' is refused; allowed: 4, which follows from its i"),
        (2, "stride", "1x1x1", "stride: '1x1x1' is refused; allowed: 1 or 2 whole numbers"),
        (2, "stride", "1x", "stride: '1x' is refused"),
        (2, "stride", " 1 ", None),
        (2, "padding", "1x1x0x2", ":3: node 'conv1': Q: '8' is refused; allowed: 8"),
        (2, "inputs", "image;image", ":3: network 'tiny': node 'conv1': conv reads 2 nodes"),
        (2, "inputs", "pool", "inputs: ['pool'] is refused; allowed: names of nodes above"),
        (2, "inputs", '"image', ":3: inputs: '\"image' is refused: unexpected end of data"),
        (2, "inputs", "image\nimage", ":3: inputs: 'image\\nimage' is refused: more than one"),
        (2, "name", "image", ":3: network 'tiny': node 'image': name is taken"),
        (2, "network", "other", ":3: network: 'other' is refused; allowed: 'tiny'"),
        (2, "network", "", None),
        (1, "network", "", ":2: network: '' is refused; allowed: the network's name"),
        (1, "shape", "1x8x8", ":2: node 'image': shape: '1x8x8' is refused"),
        (1, "K", "3", ":2: node 'image': key 'K' is refused; allowed for input: name, op, input"),
        (3, "ceil", "TRUE", None),
        (3, "ceil", "1", "ceil: '1' is refused; allowed: true or false"),
        (4, "macs", "four", ":5: node 'up': macs: 'four' is refused"),
        (0, "K", "k", ":1: column 'k' is refused; allowed: network, name, op, inputs"),
        (0, "K", "C", ":1: column 'C' stands twice"),
        (0, "op", "K", ":1: column 'K' stands twice"),
        (4, "unverified", "a\nb", "text 'a\\nb': holds the control character '\\n'; allowed: pri"),
        (4, "name", "=1+1", None),
        (4, "name", "u\x1b[31mp", "node 'u\\x1b[31mp': holds the control character '\\x1b'"),
        (0, "K", "\x1b[31m", ":1: column '\\x1b[31m' is refused"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_csv_cells(tmp_path, rows, row, column, value, expected):
    at = rows[0].index(column)
    rows[row][at] = value
    path = tmp_path / "net.csv"
    path.write_text(text_of(rows))
    if row == 2 and column == "padding":
        # Uneven padding that keeps the output is no contradiction.
        assert load_workload(path).layers[0].paddings == (1, 1, 0, 2)
    elif expected is None:
        assert load_workload(path).name == "tiny"
    else:
        assert expected in refused(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("\n", ",\n", 2), ":1: column '' is refused"),
        (lambda text: text.replace("\ntiny,conv1", "\nconv1"), ":3: 22 cells; allowed: 23, as"),
        (lambda text: text.splitlines()[0] + "\n", ": has no node; allowed: a row per node"),
        (lambda text: text.rstrip("\n"), ": the last line does not end, the file may be cut off"),
        (lambda text: text.replace("tiny,pool", 'tiny,"pool'), ":4: is not valid CSV"),
        (lambda text: text.replace(",", ";"), ":1: column 'network;name;op"),
        (lambda text: text.replace(",op,", ",", 1), ":1: column 'op' is missing; needed: network"),
        (lambda text: "", ": is empty; allowed: a network"),
    ],
)
def test_csv_files(tmp_path, rows, change, expected):
    path = tmp_path / "net.csv"
    path.write_text(change(text_of(rows)))
    assert expected in refused(path)


def test_csv_as_spreadsheets_leave_it(tmp_path, rows):
    """Columns in another order, CRLF, a byte order mark, blank rows."""
    order = sorted(range(len(rows[0])), key=rows[0].__getitem__)
    shuffled = [[row[at] for at in order] for row in rows]
    blank = "," * (len(order) - 1) + "\r\n"
    path = tmp_path / "net.csv"
    text = text_of(shuffled).replace("\n", "\r\n")
    path.write_bytes((text + blank + "\r\n").encode("utf-8-sig"))
    assert load_workload(path) == load_workload(tmp_path / "hand.csv")


@pytest.mark.parametrize("name", ["net.yaml", "net.csv"])
def test_files_that_are_no_text(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"name: t\xe4st\n")
    assert ": byte 0xe4 at offset 7 is not UTF-8; allowed: UTF-8 text" in refused(path)
    path.write_bytes("name: test\n".encode("utf-16"))
    assert "is not UTF-8" in refused(path)
    os.remove(path)
    assert refused(path) == ": cannot be read: No such file or directory"
    path.mkdir()
    assert refused(path) == ": cannot be read: it is a folder"
