"""Records that no simulation made: each part of a good one replaced by what JSON can say."""

import copy
import json
import random
from dataclasses import replace as changed

import pytest

from bfpsim.arch import replace
from bfpsim.search.store import Store, StoreError
from bfpsim.search.sweep.check import RecordError
from bfpsim.search.sweep.evaluate import evaluate
from bfpsim.search.sweep.point import POINTS
from bfpsim.search.sweep.record import Record
from bfpsim.search.sweep.results import Results

ODD = [None, True, -1, 10**400, 1.5, float("nan"), "", "x", "\x1b[31m", [], [[]], {}, {"a": 1}]
ODD += ["1/0", "1e999999999", "9" * 5000, "I", {"I": "x"}, [["DRAM", "I", "read", "burst", -1]]]


@pytest.fixture(scope="module", params=["alone", "program"])
def record(point, request) -> dict:
    arch = replace(point.arch, "vector", {"lanes": 4})
    return json.loads(evaluate(changed(point, arch=arch, layers=request.param)).to_json())


def places(part, path=()):
    yield path
    entries = part.items() if isinstance(part, dict) else enumerate(part)
    for key, own in entries if isinstance(part, dict | list) else ():
        yield from places(own, (*path, key)) if isinstance(own, dict | list) else [(*path, key)]


def test_each_value_is_what_it_must_be_or_the_record_is_refused(record):
    rng, refused, readable = random.Random(1), 0, 0
    every = list(places(record))[1:]
    for number in range(1000):
        other = copy.deepcopy(record)
        *way, last = every[number % len(every)]
        part = other
        for key in way:
            part = part[key]
        if rng.random() < 0.1:
            del part[last]
        else:
            part[last] = rng.choice(ODD)
        try:
            read = Record.from_json(json.dumps(other))
        except RecordError as error:
            refused += "\n" not in str(error) and len(str(error)) < 400
        else:
            readable += 1
            assert read.energy_pj() >= 0
            assert read.energy.all_pj >= 0
            assert Record.from_json(read.to_json()) == read
    assert refused > 650
    assert refused + readable == 1000


@pytest.mark.parametrize("text", ["", "[" * 100_000, "1", '"x"', "{}", '{"kinds": 1}', "9" * 5000])
def test_what_is_no_record_at_all_is_refused(text):
    with pytest.raises(RecordError):
        Record.from_json(text)


def test_a_store_with_another_record_in_a_points_place_is_refused(tmp_path, point):
    with Store(tmp_path / "store") as store:
        store.put(POINTS, point.key, "{}")
    with pytest.raises(StoreError, match=r"store: point 0: no record .*; run the sweep with a new"):
        list(Results((point,), tmp_path / "store"))
