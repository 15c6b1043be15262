"""From loss curves to optimal learning rates, laws, verdicts, trade-off and drift.

`fit` is the way in and `SurgeFit` the way out; `measured_cells` gives the loss surface behind it, `summarize` the
result in plain text. The JSON schema of `SurgeFit.to_dict()` ships beside this file as `fit.schema.json`.
"""

from surge_sweeps.fitting.fit import fit
from surge_sweeps.fitting.observables.plan import measured_cells
from surge_sweeps.fitting.result import SurgeFit, json_schema
from surge_sweeps.fitting.summary import summarize

__all__ = ["SurgeFit", "fit", "json_schema", "measured_cells", "summarize"]
