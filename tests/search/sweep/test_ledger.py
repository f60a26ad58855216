from dataclasses import replace

from bfpsim.search.store import Entry, Store
from bfpsim.search.sweep.evaluate import Outcome
from bfpsim.search.sweep.run import Ledger

KEPT = Outcome("{}", 5.0, None)


def test_what_another_process_did_meanwhile_is_not_wanted(point, tmp_path):
    other = replace(point, objective="energy")
    with Store(tmp_path / "store") as store, Store(tmp_path / "store") as elsewhere:
        ledger = Ledger([point, other, point], store, False, None)
        assert (ledger.total, ledger.done) == (2, 0)
        assert ledger.wants(point)
        elsewhere.put("point", point.key, "{}")
        elsewhere.put_error("point", other.key, "no mapping")
        assert not ledger.wants(point)
        assert not ledger.wants(other)
        assert ledger.done == 2


def test_an_error_is_wanted_again_for_a_retry_only(point, tmp_path):
    with Store(tmp_path / "store") as store:
        store.put_error("point", point.key, "no mapping")
        assert Ledger([point], store, False, None).done == 1
        ledger = Ledger([point], store, True, None)
        assert ledger.done == 0
        assert ledger.wants(point)
        ledger.keep(point, KEPT)
        assert store.get("point", point.key) == Entry("{}", None)
        assert Ledger([point], store, True, None).done == 1


def test_progress_counts_and_knows_the_best_of_the_latest_network(point, tmp_path):
    seen = []
    small, large = (replace(point, network=replace(point.network, name=name)) for name in "ab")
    others = [replace(small, objective="energy"), replace(large, objective="energy")]
    with Store(tmp_path / "store") as store:
        ledger = Ledger([small, large, *others], store, False, seen.append)
        ledger.report(False)
        for one, outcome in (
            (small, KEPT),
            (large, Outcome("{}", 90.0, None)),
            (others[1], Outcome("{}", 100.0, None)),
            (others[0], Outcome(None, 0.0, "no mapping")),
        ):
            ledger.keep(one, outcome)
            ledger.report(True)
    assert [(one.done, one.failed, one.stopping) for one in seen] == [
        (0, 0, False), (1, 0, True), (2, 0, True), (3, 0, True), (4, 1, True)
    ]  # fmt: skip
    assert [one.best for one in seen] == [
        None, (small, 5.0), (large, 90.0), (large, 90.0), (small, 5.0)
    ]  # fmt: skip
