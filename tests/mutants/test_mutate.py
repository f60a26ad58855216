"""Mutants differ from their source in one place, and are the same ones every time."""

import ast
from collections import Counter

from tests.mutants.campaign import ROOT, TESTS, excused
from tests.mutants.equivalent import EQUIVALENT
from tests.mutants.mutate import mutants_of, mutated, sample

SOURCE = '''
"""Text with 1 < 2."""
def area(a: tuple[int, 2], b=1) -> "1 + 1":
    """Not 3."""
    if not a and b > 0:
        raise ValueError(f"{a + b} of {max(a, b)}")
    a += -(-b // 8)
    return min(a[0], b * a[1:]) or -1
'''


def test_every_operator_finds_its_places() -> None:
    looks = {(one.operator, one.was, one.becomes) for one in mutants_of("area.py", SOURCE)}
    assert looks == {
        ("constant", "1", "2"),  # b's default, and so on
        ("constant", "1", "0"),
        ("condition", "if not a and b > 0", "if not (not a and b > 0)"),
        ("and, or", "not a and b > 0", "not a or b > 0"),
        ("not", "not a", "a"),
        ("comparison", "b > 0", "b >= 0"),
        ("constant", "0", "1"),
        ("no update", "a += -(-b // 8)", "pass"),
        ("arithmetic", "a += -(-b // 8)", "a -= -(-b // 8)"),
        ("sign", "-(-b // 8)", "-b // 8"),
        ("sign", "-b", "b"),
        ("arithmetic", "-b // 8", "-b * 8"),
        ("constant", "8", "9"),
        ("constant", "8", "7"),
        ("and, or", "min(a[0], b * a[1:]) or -1", "min(a[0], b * a[1:]) and -1"),
        ("extreme", "min(a[0], b * a[1:])", "max(a[0], b * a[1:])"),
        ("first, last", "a[0]", "a[-1]"),
        ("arithmetic", "b * a[1:]", "b // a[1:]"),
        ("bounds", "1:", ":1"),
    }


def test_each_is_another_program() -> None:
    mutants = mutants_of("area.py", SOURCE)
    programs = [ast.dump(ast.parse(mutated(SOURCE, one))) for one in mutants]
    assert len({ast.dump(ast.parse(SOURCE)), *programs}) == len(mutants) + 1
    assert len({one.key for one in mutants}) == len(mutants)


def test_a_larger_sample_holds_the_smaller_and_operators_take_turns() -> None:
    mutants = mutants_of("area.py", SOURCE)
    some, more = sample(mutants, 8, seed=1), sample(mutants, 12, seed=1)
    assert more[:8] == some
    assert set(Counter(one.operator for one in some).values()) == {1}
    assert some != sample(mutants, 8, seed=2)


def test_lines_elsewhere_do_not_make_it_another_mutant() -> None:
    later = SOURCE.replace("def area", "LIMIT = 3\n\n\ndef area")
    known = {one.key for one in mutants_of("area.py", SOURCE)}
    assert known < {one.key for one in mutants_of("area.py", later)}


def test_every_excused_mutant_exists() -> None:
    """A changed line asks for its reason again."""
    mutants = [m for name in TESTS for m in mutants_of(name, (ROOT / name).read_text())]
    used = {excused(one) for one in mutants}
    assert [one for one in EQUIVALENT if one not in used] == []
