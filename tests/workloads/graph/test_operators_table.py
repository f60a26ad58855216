"""The page of operators says what the code does."""

from tests.workloads.graph.operators_table import PAGE, page


def test_the_page_is_the_codes() -> None:
    assert PAGE.read_text() == page()
