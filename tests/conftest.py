"""What holds for all tests."""

import gc

import pytest

# Importing and exporting modules makes objects by the hundred thousand, which Python would search
# for garbage again and again: an eighth of the time of tests that export.
gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch):
    """What takes long on a busy machine prints what it prints on an idle one."""
    monkeypatch.setattr("bfpsim.commands.progress._EVERY", float("inf"))
