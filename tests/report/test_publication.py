"""What is published of a fit: plain values that every tracker and every file format takes."""

from __future__ import annotations

import json

from surge_sweeps.report.publication import publication_of

from .conftest import Case


def test_every_value_is_one_that_json_takes(demo: Case) -> None:
    """Targets with a horizon beside targets without make a column of whole numbers with gaps."""
    group = demo.fit.groups[0]
    gain = group.targets[0].model_copy(update={"protocol": "gain", "horizon_steps": 10, "start": "c1"})
    group.targets.append(gain)
    publication = publication_of(demo.fit, demo.cells, [])
    horizon = publication.optima.columns.index("horizon")
    assert {row[horizon] for row in publication.optima.rows} == {None, 10}
    for table in (publication.optima, publication.chart):
        assert json.loads(json.dumps(table.rows)) == [list(row) for row in table.rows]
    assert len(publication.fingerprint()) == 12
