"""What the host does: shares by hand, and the sentence."""

from bfpsim.arch import load_arch
from bfpsim.reports.host import host_line, host_shares
from bfpsim.workloads import NetworkBuilder, load_workload
from bfpsim.workloads.network import Network
from bfpsim.workloads.program import program_of

EDGE, IDEAL = load_arch("edge-64k"), load_arch("ideal-64k")


def network() -> Network:
    build = NetworkBuilder("small", (1, 4, 4, 8))
    build.conv("conv", "input", 8, (1, 1))  # 128 elements
    build.relu("relu", "conv")
    build.maxpool("pool", "relu", (2, 2), stride=(2, 2))  # 32
    build.host("sorted", "top_k", "pool")
    build.host("again", "top_k", "sorted")
    return build.network()


def test_with_a_vector_unit_it_does_what_that_has_not() -> None:
    program = program_of(network())
    assert host_shares(program, EDGE) == {"top_k": 64 / 352}
    assert host_line(program, EDGE) == (
        "no functions of the vector unit: the host makes 18.2 % of all elements, free of charge "
        "(top_k 18.2 %)"
    )


def test_without_one_it_does_all_that_is_no_product() -> None:
    program = program_of(network(), vector=False)
    assert host_shares(program, IDEAL) == {
        "relu": 128 / 352,
        "top_k": 64 / 352,
        "maxpool": 32 / 352,
    }
    line = host_line(program, IDEAL)
    assert line is not None
    assert line.startswith("no vector unit: the host makes 63.6 % of all elements, free of charge")
    assert line.endswith("(relu 36.4 %, top_k 18.2 %, maxpool 9.1 %)")


def test_a_network_that_the_machine_does_alone_has_no_sentence() -> None:
    assert host_line(program_of(load_workload("resnet18")), EDGE) is None


def test_many_functions_are_counted_not_named() -> None:
    build = NetworkBuilder("many", (1, 4, 4, 8))
    x = "input"
    for number in range(9):
        x = build.host(f"n{number}", f"odd{number}", x)
    line = host_line(program_of(build.network()), EDGE)
    assert line is not None
    assert line.endswith("odd4 11.1 %, odd5 11.1 %, 3 more)")
    assert "100.0 % of all elements" in line
