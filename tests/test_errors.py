"""Errors carry the cause and the next step wherever they are raised."""

from __future__ import annotations

import pickle

from surge_sweeps.errors import SurgeError, UnknownNameError


def test_errors_cross_process_borders_whole() -> None:
    for error in (SurgeError("what.", "hint."), UnknownNameError("optimizer", "adm", ["adam"])):
        back = pickle.loads(pickle.dumps(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert vars(back) == vars(error)
