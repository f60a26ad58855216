"""Progress in phases: a line for each step, or nothing."""

from bfpsim.search.phases import progress_lines, silent


def test_a_line_says_phase_step_and_how_far_it_is() -> None:
    lines: list[str] = []
    phases = progress_lines(lines.append)
    with phases("evaluating", 2) as step:
        step("bfp8")
        step("bfp16")
    with phases("searching", None) as step:  # nobody knows how long
        step("round 1")
    assert lines == [
        "evaluating: bfp8 (1 of 2)",
        "evaluating: bfp16 (2 of 2)",
        "searching: round 1",
    ]


def test_silence(capsys) -> None:
    with silent("evaluating", 2) as step:
        step("bfp8")
    assert capsys.readouterr() == ("", "")
