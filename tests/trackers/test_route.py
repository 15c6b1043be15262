"""By what way points were read is told: the store's own way, the cache, or both."""

from __future__ import annotations

from pathlib import Path

from stored_rows import Store

PARAMS = {"lr": 0.1, "batch_size": 8, "seed": 0}
ROWS = [{"_step": step, "eval/loss": 2.0 / step} for step in (1, 2, 3)]


def test_the_route_is_the_stores_the_caches_or_both(tmp_path: Path) -> None:
    store = Store()
    store.log(PARAMS, ROWS)
    assert store.read(own_step=True).route == "rows in memory"
    assert store.read(own_step=True, cache_dir=tmp_path).route == "rows in memory"
    assert store.read(own_step=True, cache_dir=tmp_path).route == "the cache"
    store.log(PARAMS | {"seed": 1}, ROWS)
    mixed = store.read(own_step=True, cache_dir=tmp_path).route
    assert mixed == "the cache (1 of 2 runs), else rows in memory"
    assert Store().read(own_step=True).route == ""
