"""The paper's experiments on networks that take a moment."""

import pytest

from bfpsim.search.experiments.bitq import (
    reproduce_ablation,
    reproduce_accuracy,
    reproduce_alpha,
    reproduce_energy,
)
from bfpsim.workloads import NetworkBuilder, WorkloadError


@pytest.fixture
def network():
    build = NetworkBuilder("tiny", (1, 9, 9, 8))
    build.linear("fc", build.conv("conv", "input", 8, (3, 3)), 16)
    return build.network()


def test_energies_are_relative_to_the_original(network, edge) -> None:
    study = reproduce_energy([network], edge, bitq8="bfp8e2b8")
    energies = study.energies.set_index("format")
    assert energies.loc["original", "normalised"] == 1
    assert list(study.formats) == list(energies.index[1:])
    assert study.formats[-2:] == ("bitq16 (bfp16)", "bitq8 (bfp8e2b8)")
    share = energies["energy_pj"] / energies.loc["original", "energy_pj"]
    assert energies["normalised"].tolist() == share.tolist()
    # One network: its own energies are the means.
    assert set(study.means["group"]) == {"all"}
    assert study.means["normalised"].tolist() == pytest.approx(share.tolist())
    with pytest.raises(WorkloadError, match="'tiny' is given twice; allowed: different names"):
        reproduce_energy([network, network], edge)


def test_alpha_ablation_and_accuracy_share_a_folder(classifier, edge, tmp_path) -> None:
    alphas = reproduce_alpha(classifier, edge, tmp_path, bits=[8])
    (table,) = tmp_path.glob("*-8.csv")
    assert table.name.startswith("net-make-")
    written = table.stat().st_mtime_ns
    (frame,) = alphas.choices.values()
    assert frame["alpha"].is_monotonic_increasing
    assert frame["simulated"].is_monotonic_decreasing  # dearer movement, less of it
    assert frame["of_first"].iloc[0] == 1

    training = {"training": classifier.images, "steps": 2}
    ablation = reproduce_ablation(classifier, edge, tmp_path, bits=[8], **training)
    rows = ablation.choices.set_index(["choice", "trained"])
    assert len(rows) == 4 + 3
    least, bitq = rows.loc[("w/o QAT", False)], rows.loc[("BitQ", False)]
    assert least["simulated"] <= bitq["simulated"]
    assert ("w/o QAT", True) not in rows.index
    assert bitq["simulated"] == frame.set_index("alpha").loc[0.2, "simulated"]

    accuracy = reproduce_accuracy(classifier, edge, tmp_path, **training)
    by_policy = accuracy.accuracy.set_index("policy")
    assert by_policy.loc["bitq8", "top1"] == bitq["top1"]
    assert by_policy.loc["original", "accuracy_loss"] == 0
    assert accuracy.trained["policy"].tolist() == ["bitq16", "bitq8"]
    assert table.stat().st_mtime_ns == written  # measured once
