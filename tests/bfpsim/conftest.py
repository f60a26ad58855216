"""What tests of the command line share."""

import pytest

from tests.exports import exported_once  # noqa: F401


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch):
    """What takes long on a busy machine prints what it prints on an idle one."""
    monkeypatch.setattr("bfpsim.commands.progress._EVERY", float("inf"))
