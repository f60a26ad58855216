"""Compiling where nothing can be kept: a package that belongs to root, and no home."""

import numba.core.caching

from bfpsim.compiled import compiled


def double(x):
    return 2 * x


def test_without_a_place_for_a_cache_functions_are_compiled_all_the_same(monkeypatch) -> None:
    for kind in (numba.core.caching.FunctionCache, numba.core.caching.CacheImpl):
        if hasattr(kind, "_impl_class"):
            monkeypatch.setattr(kind._impl_class, "_locator_classes", [])
    made = compiled(nogil=True)(double)
    assert made.py_func is double
    assert made(21) == 42
    assert made.stats.cache_path is None


def test_with_a_place_they_are_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
    assert compiled()(double)(21) == 42
    assert any(tmp_path.rglob("*.nbi"))
