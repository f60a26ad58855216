"""The search's answer: movement alone of a network, finalists on real images of a classifier."""

import pandas as pd
import pytest

from bfpsim.search.bitwidth.search import search_network
from bfpsim.search.bitwidth.target import LossBudget
from bfpsim.search.experiments.answer import choose_formats
from bfpsim.sim.simulate import simulate_layers
from bfpsim.workloads import WorkloadError


def test_a_network_is_searched_for_the_least_movement(classifier, edge, kept) -> None:
    answer = choose_formats(classifier.network, edge, store=kept / "stages")
    alone = search_network(classifier.network, edge, store=kept / "stages")
    assert answer.choice == alone.by("simulated")
    assert answer.choice.loss == 0
    assert (answer.finalists, answer.accuracy_loss, answer.losses.images) == (None, None, None)
    simulated = simulate_layers(
        classifier.network, edge, alone.formats(answer.choice), answer.choice.choice.mappings
    )
    assert answer.simulation.traffic.equals(simulated.traffic)
    with pytest.raises(WorkloadError, match="is no classifier; allowed: no sensitivity table"):
        choose_formats(classifier.network, edge, loss_per_nat=1.0)


@pytest.fixture
def known(kept) -> dict[str, object]:
    """What of the classifier is known already, to go on from."""
    return {"table": kept / "table.csv", "store": kept / "stages"}


def test_a_classifiers_answer_is_the_best_finalist(classifier, edge, known) -> None:
    answer = choose_formats(classifier, edge, loss_per_nat=0.5, **known)
    finalists = answer.finalists
    assert finalists["value"].is_monotonic_increasing
    assert answer.accuracy_loss == finalists["accuracy_loss"].iloc[0]
    assert answer.choice.simulated == finalists["simulated"].iloc[0]
    assert answer.points_above_budget is None
    assert {"simulated prices", "exact prices", "paper prices", "alpha 0.4"} < {
        *finalists["choice"]
    }
    # From the store, and with the exact model's prices first.
    again = choose_formats(classifier, edge, loss_per_nat=0.5, cost="exact", **known)
    assert again.finalists["choice"].iloc[0] == "exact prices"
    assert again.choice.choice == answer.search.by("exact").choice
    pd.testing.assert_frame_equal(
        again.finalists.sort_values("choice", ignore_index=True),
        finalists.sort_values("choice", ignore_index=True),
    )


def test_training_adds_the_answer_trained(classifier, edge) -> None:
    answer = choose_formats(classifier, edge, loss_per_nat=0.5, training=classifier.images, steps=2)
    first, last = answer.finalists["choice"].iloc[[0, -1]]
    assert last == f"{first} +QAT"
    assert answer.accuracy_loss == answer.finalists["accuracy_loss"].iloc[-1]


def test_a_budget_that_every_finalist_breaks_says_by_how_much(classifier, edge, known) -> None:
    """A nat is said to cost next to nothing, so that predictions are far too low."""
    budget = {"target": LossBudget(0.01), "loss_per_nat": 1e-4}
    answer = choose_formats(classifier, edge, **budget, **known)
    assert answer.choice.loss <= 0.01
    assert answer.points_above_budget == pytest.approx(100 * answer.accuracy_loss - 1)
    assert answer.points_above_budget > 0
