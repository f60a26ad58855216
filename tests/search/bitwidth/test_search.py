"""The whole search on small networks: against brute force, uniform formats, and itself."""

import numpy as np
import pytest

from bfpsim.arch import load_arch
from bfpsim.mapping.mapper import best_mappings
from bfpsim.mapping.nest import MappingError
from bfpsim.quant.formats import BFP, E2M1, MX, NVFP4, Format, LayerFormats
from bfpsim.search.bitwidth.allocation import InfeasibleError
from bfpsim.search.bitwidth.search import SearchResult, search_formats, search_network
from bfpsim.search.bitwidth.space import make_space
from bfpsim.search.bitwidth.target import CostBudget, LossBudget, Tradeoff, front_alphas
from bfpsim.search.crew import workers
from bfpsim.search.rescore import simulated_cost
from bfpsim.search.store import Stages, Store
from bfpsim.sim.simulate import simulate, simulate_layers
from tests.long import often
from tests.search.bitwidth.small import (
    FORMATS,
    block_network,
    brute_force,
    chain_network,
    random_losses,
    small_arch,
)


def searched(network, seed=0, bits=4000, objective="dram", target=None, tied=True, stages=None,
             progress=None, formats=FORMATS, processes=1) -> SearchResult:  # fmt: skip
    space = make_space(network, formats, tied=tied)
    losses = random_losses(space, seed)
    with workers(processes) as run:
        return search_formats(
            space, small_arch(bits), losses, target or Tradeoff(0.2), objective, run,
            stages or Stages(), progress,
        )  # fmt: skip


MIXED = (BFP(8, 2, 1), MX(E2M1), NVFP4())


@pytest.mark.parametrize(
    ("seed", "objective", "formats"),
    often(
        3,
        [
            (0, "dram", FORMATS), (1, "energy", FORMATS), (0, "energy", MIXED),
            (1, "dram", FORMATS), (0, "energy", FORMATS), (1, "dram", MIXED),
        ],
    ),
)  # fmt: skip
def test_no_choice_of_formats_and_mappings_is_better(
    seed: int, objective: str, formats: tuple[Format, ...]
) -> None:
    found = searched(chain_network(), seed, 1500 + 600 * seed, objective, formats=formats)
    best = found.by("simulated")
    losses = random_losses(found.space, seed)
    every = brute_force(found.space, found.arch, losses, 0.2, best.dm_max, objective, "full")
    assert best.value == pytest.approx(every, rel=1e-9)
    exact = found.by("exact")
    assert exact.value == pytest.approx(
        brute_force(found.space, found.arch, losses, 0.2, exact.dm_max, objective, "exact"),
        rel=1e-9,
    )


@pytest.fixture
def short_front(monkeypatch) -> None:
    """Fronts of the paper's alphas alone, where a test is about something else."""
    monkeypatch.setattr("bfpsim.search.bitwidth.search.POINTS", 0)


def uniform_values(found: SearchResult, seed: int) -> list[float]:
    """What one format for all tensors reaches, each layer simulated under the mapper's best."""
    losses = random_losses(found.space, seed)
    values = []
    for f, fmt in enumerate(FORMATS):
        total = 0.0
        for layer in block_network().layers:
            formats = LayerFormats.uniform(fmt)
            best = best_mappings(layer, found.arch, formats, 1, found.objective, "full")[0].mapping
            total += simulated_cost(simulate(layer, found.arch, best, formats), found.objective)
        scale = found.by("simulated").dm_max
        values.append(found.target.value(float(losses[:, f].sum()), total, scale))
    return values


@pytest.mark.parametrize(
    ("objective", "tied"),
    often(
        2,
        [
            *(("latency", False), ("energy", True), ("dram", True), ("latency", True)),
            *(("dram", False), ("energy", False)),
        ],
    ),
)
def test_the_choice_beats_every_format_for_all_and_both_models(objective, tied) -> None:
    found = searched(block_network(), 3, 3500, objective, tied=tied)
    value = found.value(found.by("simulated"))
    assert value <= min(uniform_values(found, 3)) * (1 + 1e-9)
    assert found.floor <= value * (1 + 1e-9)
    assert all(value <= found.value(own) * (1 + 1e-9) for own in (*found.proposals, *found.front))


@pytest.mark.parametrize(
    ("seed", "bits", "alpha"),
    often(1, [(1, 2200, 3.0), (3, 3500, 1.0), (0, 2200, 1e6), (0, 2200, 0.2), (2, 3000, 3.0)]),
)
def test_a_latency_is_never_above_that_of_one_format_for_all(
    seed, bits, alpha, short_front
) -> None:
    """Bounds of latencies are loose, so much depends on what is simulated."""
    found = searched(block_network(), seed, bits, "latency", target=Tradeoff(alpha))
    assert found.value(found.by("simulated")) <= min(uniform_values(found, seed)) * (1 + 1e-9)


@pytest.mark.parametrize("objective", ["dram", "energy", "latency"])
def test_what_is_reported_is_what_the_simulator_counts(objective: str, short_front) -> None:
    network = block_network()
    found = searched(network, 1, 3500, objective)
    for own in found.proposals:
        result = simulate_layers(network, found.arch, found.formats(own), dict(own.choice.mappings))
        counted = {
            "dram": sum(int(one.counts.total("DRAM")) for one in result.layers),
            "energy": result.energy_pj,
            "latency": result.cycles,
        }
        assert own.simulated == pytest.approx(counted[objective], rel=1e-12)
    best = found.by("simulated")
    assert best.predicted == best.simulated
    assert found.simulations > 0


@pytest.mark.long
def test_no_choice_of_formats_and_mappings_is_better_at_length() -> None:
    for seed in range(2, 12):
        for objective in ("dram", "energy"):
            test_no_choice_of_formats_and_mappings_is_better(seed, objective)


def test_a_front_cut_short_has_the_alphas_of_the_paper_and_of_the_target(monkeypatch) -> None:
    import bfpsim.search.bitwidth.search as module

    target = Tradeoff(0.7)
    whole = searched(block_network(), 6, target=target)
    monkeypatch.setattr(module, "POINTS", 0)
    short = searched(block_network(), 6, target=target)
    assert len(short.front) < len(whole.front)
    assert all(own in whole.front for own in short.front)
    assert {0.015, 0.7, 1.4, 3.0} < set(front_alphas(target))
    for alpha in front_alphas(target):
        assert short.at(alpha) == whole.at(alpha)


@pytest.mark.usefixtures("short_front")
def test_tied_tensors_have_one_format() -> None:
    found = searched(block_network(), 5)
    formats = found.formats(found.by("simulated"))
    assert formats["stem"].O == formats["inner"].I == formats["outer"].O == formats["head"].I


@pytest.mark.usefixtures("short_front")
def test_free_choices_cost_no_more_than_tied_ones() -> None:
    # Losses of a tied tensor are the sums of its operands', so that the two are comparable.
    network, arch, formats = block_network(), small_arch(), FORMATS
    free = make_space(network, formats, tied=False)
    tied = make_space(network, formats)
    own = random_losses(free, 2)
    row = {places[0]: own[t] for t, places in enumerate(free.tensors)}
    losses = np.array([sum(row[place] for place in places) for places in tied.tensors])
    with workers(1) as run:
        a = search_formats(free, arch, own, Tradeoff(), "dram", run, Stages())
        b = search_formats(tied, arch, losses, Tradeoff(), "dram", run, Stages())
    assert a.value(a.by("simulated")) <= b.value(b.by("simulated")) * (1 + 1e-9)


@pytest.mark.usefixtures("short_front")
def test_budgets(short_front) -> None:
    least = searched(block_network(), 0, target=Tradeoff(1e6)).by("simulated")
    best = searched(block_network(), 0, target=Tradeoff(1e-6)).by("simulated")
    middle = (least.loss + best.loss) / 2
    by_loss = searched(block_network(), 0, target=LossBudget(middle)).by("simulated")
    assert by_loss.loss <= middle
    assert least.simulated <= by_loss.simulated <= best.simulated
    by_cost = searched(block_network(), 0, target=CostBudget(by_loss.simulated)).by("simulated")
    assert by_cost.simulated <= by_loss.simulated
    assert by_cost.loss <= by_loss.loss + 1e-9
    with pytest.raises(InfeasibleError, match="allowed: at least"):
        searched(block_network(), 0, target=LossBudget(best.loss / 100))
    with pytest.raises(InfeasibleError, match="the least that any choice has"):
        searched(block_network(), 0, target=CostBudget(1.0))


@pytest.mark.usefixtures("short_front")
@pytest.mark.parametrize("objective", ["dram", pytest.param("energy", marks=pytest.mark.long)])
def test_gaps_and_floors_of_budgets_are_in_the_units_of_their_values(
    objective: str, short_front
) -> None:
    free = searched(block_network(), 0, objective=objective).by("simulated")
    for target in (LossBudget(free.loss), CostBudget(free.simulated)):
        found = searched(block_network(), 0, objective=objective, target=target)
        best = found.by("simulated")
        assert 0 < found.floor <= best.value * (1 + 1e-9)
        assert found.floor > best.value / 2
        assert best.gap <= 1e-4
        assert all(own.gap <= 1e-4 for own in found.proposals if np.isfinite(own.value))


@pytest.mark.usefixtures("short_front")
def test_a_budget_that_only_the_papers_model_thinks_too_small() -> None:
    """The paper's prices are no lower bound: 6560 bits are enough, and it asks for 7171."""
    found = searched(block_network(), 0, 3500, target=CostBudget(6560.0))
    assert found.by("simulated").simulated <= 6560
    assert found.by("paper").predicted == pytest.approx(7171)


@pytest.mark.parametrize("objective", often(1, ["energy", "latency", "dram"]))
def test_a_budget_of_exactly_what_is_needed_is_met(objective: str, short_front) -> None:
    least = searched(block_network(), 0, objective=objective, target=Tradeoff(1e6))
    most = least.by("simulated").simulated
    found = searched(block_network(), 0, objective=objective, target=CostBudget(most))
    assert found.by("simulated").simulated <= most * (1 + 1e-9)


@pytest.mark.usefixtures("short_front")
@pytest.mark.parametrize("processes", often(1, [2, 1]))
def test_the_same_again_whatever_the_number_of_workers(processes: int) -> None:
    assert searched(block_network(), 4) == searched(block_network(), 4, processes=processes)


@pytest.mark.usefixtures("short_front")
def test_a_killed_search_goes_on_where_it_was(tmp_path, monkeypatch) -> None:
    whole = searched(block_network(), 4)

    class KilledError(Exception):
        pass

    def die(step: str) -> None:
        if step.startswith("round"):
            raise KilledError

    with Store(tmp_path / "stages") as store, pytest.raises(KilledError):
        searched(block_network(), 4, stages=Stages(store), progress=die)

    import bfpsim.search.bitwidth.search as module

    def never(*_: object) -> None:
        raise AssertionError("priced again")

    with Store(tmp_path / "stages") as store:
        monkeypatch.setattr(module, "model_costs", never)
        assert searched(block_network(), 4, stages=Stages(store)) == whole
        monkeypatch.setattr(module, "refine", never)
        assert searched(block_network(), 4, stages=Stages(store)) == whole
        with pytest.raises(AssertionError, match="priced again"):
            searched(block_network(), 4, bits=4001, stages=Stages(store))


@pytest.mark.parametrize("objective", often(1, ["energy", "dram", "latency"]))
def test_levels_inside_sram_are_in_every_price(objective: str, tmp_path, short_front) -> None:
    """Totals are the simulator's, insides included; floors are below, and survive the store."""
    network, arch = chain_network(), load_arch("edge-64k")
    space = make_space(network, FORMATS)
    losses = random_losses(space, 3)

    def search() -> SearchResult:
        with Store(tmp_path / "stages") as store, workers(1) as run:
            return search_formats(space, arch, losses, Tradeoff(0.2), objective, run, Stages(store))

    found = search()
    assert search() == found
    for own in (*found.proposals, *found.front):
        assert all(set(m.inner) == {"ibuf", "acc"} for m in own.choice.mappings.values())
        total = 0.0
        for layer in network.layers:
            formats = found.formats(own)[layer.name]
            result = simulate(layer, arch, own.choice.mappings[layer.name], formats)
            total += simulated_cost(result, objective)
        assert own.simulated == pytest.approx(total, rel=1e-12)
    best = found.by("simulated")
    assert found.floor <= best.value * (1 + 1e-12)
    assert best.predicted == best.simulated
    for fmt in range(len(FORMATS)):
        assert found.value(best) <= uniform(found, fmt, objective) * (1 + 1e-9)


def uniform(found: SearchResult, fmt: int, objective: str) -> float:
    """The value of one format for all tensors, each layer mapped by the mapper."""
    cost, formats = 0.0, LayerFormats.uniform(FORMATS[fmt])
    for product in found.space.products:
        kind = found.space.kinds[product.kind]
        (best,) = best_mappings(kind, found.arch, formats, 1, objective, "full")
        cost += simulated_cost(simulate(kind, found.arch, best.mapping, formats), objective)
    losses = random_losses(found.space, 3)[:, fmt].sum()
    return found.target.value(losses, cost, found.by("simulated").dm_max)


def test_a_buffer_too_small_for_any_format() -> None:
    with pytest.raises(MappingError, match="too few"):
        searched(block_network(), 0, 100)


def test_one_format_leaves_only_mappings_to_choose() -> None:
    found = searched(chain_network(), 0, formats=(BFP(8, 3, 2),))
    assert found.by("simulated").choice.formats == (0,) * len(found.space.tensors)


@pytest.mark.parametrize("alpha", [-1.0, float("nan"), float("inf")])
def test_alpha_is_a_number_from_zero(alpha: float) -> None:
    with pytest.raises(ValueError, match="allowed: a number from 0"):
        Tradeoff(alpha)


def test_one_call_does_it_all(tmp_path) -> None:
    network, arch = chain_network(), small_arch(3000)
    steps: list[str] = []
    found = search_network(
        network, arch, bits=8, target=LossBudget(0.0), objective="dram",
        store=tmp_path / "stages", progress=steps.append,
    )  # fmt: skip
    assert len(found.space.formats) == 40
    assert found.by("simulated").loss == 0  # nothing is known of accuracy
    assert steps
    steps.clear()
    again = search_network(
        network, arch, bits=8, target=LossBudget(0.0), objective="dram", store=tmp_path / "stages",
        progress=steps.append,
    )  # fmt: skip
    assert again == found
    assert not steps
