"""Fit the candidate laws to the optimal learning rates of one target, in log LR.

Each law's likelihood is laid out on a dense grid of its shape parameters with level and extra scatter solved for, its
best cell is polished, and the laws are compared by AICc; the extra scatter counts as a parameter. The same grids
give the profile intervals of B_peak, kappa, B_noise and the exponent of the power law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from surge_sweeps.errors import NotEnoughDataError, UnknownNameError
from surge_sweeps.fitting.laws.curve_grid import CurveGrid, curve_grids
from surge_sweeps.fitting.laws.law_search import BestFit, aicc, akaike_weights, polish
from surge_sweeps.fitting.laws.law_validation import LawResiduals, selection_frequencies
from surge_sweeps.fitting.laws.likelihood import LevelFit, Observations, draws_of_values, fit_levels, observe
from surge_sweeps.fitting.laws.profile import (
    around,
    deviance_threshold,
    exp_ends,
    interval,
    pooled_profile,
    profile_ends,
)
from surge_sweeps.fitting.laws.surge_family import B_PEAK, FAMILY_PARAMETERS, KAPPA, SurgeFamily
from surge_sweeps.fitting.optimum.optima import Optima
from surge_sweeps.fitting.result import Interval, LawFit
from surge_sweeps.theory import LAWS, mean_field_peak, peak_batch_size

FloatArray = NDArray[np.float64]
LawGrids = dict[str, tuple[tuple[CurveGrid, LevelFit], ...]]

_B_NOISE = {
    "sgd_saturation": ("b_noise", "batch size at which the optimal learning rate is half its largest (SGD B_noise)"),
    "adam_saturation": ("b_s", "batch size B_s at which the optimal LR is 1/sqrt(2) of its largest (Adam saturation)"),
    "surge": ("b_noise", "B_noise of the surge law; the interval allows for a plateau, where B_noise = B_s/kappa"),
    "surge_plateau": ("b_s/kappa", "B_noise = B_s/kappa of the surge law with plateau"),
}  # fmt: skip

_ALPHA = "exponent alpha of the power law: the optimal learning rate is proportional to B^alpha"

#: Fewest optima (values and bounds; values alone) to which laws are fitted.
MIN_OPTIMA, MIN_VALUES = 4, 3

# Log likelihood below the best down to which the second grid of a law reaches, and the grid about the best fit.
_ZOOM, _NEAR = 15.0, 4.0


@dataclass(frozen=True, eq=False)
class LawFits:
    """All laws fitted to the optima of one target.

    Attributes:
        observed: what was fitted. fits: one entry a law, in the order of `LAWS`; empty when there is too little.
        reason: why there is no fit, else empty.
        scatter_sd: law name -> extra scatter of log LR beyond the seeds, at the best fit.
        monotone_plateau_aicc: AICc of the plateau law held to kappa <= 1, where it cannot fall; None if undefined.
        b_peak, kappa: 95% profile intervals over the surge laws; an end beyond the measured batch sizes is open.
    """

    observed: Observations
    fits: tuple[LawFit, ...] = ()
    reason: str = ""
    scatter_sd: dict[str, float] = field(default_factory=dict)
    monotone_plateau_aicc: float | None = None
    b_peak: Interval = field(default_factory=lambda: Interval(definition=B_PEAK))
    kappa: Interval = field(default_factory=lambda: Interval(definition=KAPPA))
    _grids: LawGrids = field(default_factory=dict, repr=False)

    def fit(self, law_name: str) -> LawFit:
        """The fit of one law. Raises `UnknownNameError`, or `NotEnoughDataError` where no law was fitted."""
        if law_name not in LAWS:
            raise UnknownNameError("law", law_name, LAWS)
        if not self.fits:
            raise NotEnoughDataError("no law was fitted.", self.reason)
        return next(fit for fit in self.fits if fit.name == law_name)

    def exponent(self) -> Interval:
        """Exponent alpha of the power law. Raises `NotEnoughDataError` where no law was fitted."""
        estimate = self.fit("power").parameters["alpha"]
        grid, levels = self._grids["power"][0]
        near = levels.log_likelihood.max(axis=1)
        threshold = _threshold(self.observed, "power", self._noise_scatter("power"))
        ends = profile_ends(grid.shape()["alpha"], near, float(near.max()), threshold)
        return interval(estimate, around(ends, estimate), _ALPHA)

    def b_noise(self, law_name: str) -> Interval:
        """B_noise under one law, each with its own definition; not identified for a law that has none.

        Raises:
            UnknownNameError, NotEnoughDataError: as `fit`.
        """
        fit = self.fit(law_name)
        if law_name not in _B_NOISE:
            return Interval(definition=f"B_noise: the law {law_name} has none")
        parameter, definition = _B_NOISE[law_name]
        if parameter != "b_s/kappa":
            return self._shape_interval(law_name, fit.parameters[parameter], parameter, definition)
        kappa = fit.parameters["kappa"]
        if kappa <= 0:
            return Interval(definition=definition)
        return self._shape_interval(law_name, fit.parameters["b_s"] / kappa, parameter, definition)

    def _noise_scatter(self, law_name: str) -> float:
        return _noise_scatter(self.scatter_sd, {fit.name: fit.aicc for fit in self.fits}, law_name)

    def b_peak_erf(self) -> float | None:
        """B_peak under the error-function form of the plateau law, to be held against the algebraic `b_peak`.

        That form is the exact one where all coordinates have one signal-to-noise ratio (Li et al. 2024, eq 9). None
        where it fits best without a peak. Raises `NotEnoughDataError` where no law was fitted.
        """
        self.fit("surge_plateau")
        b_min, b_max = float(self.observed.batch_sizes[0]), float(self.observed.batch_sizes[-1])
        grids = _lay_grids(self.observed, "surge_plateau", b_min, b_max, exact=True)
        rising, peaked = (polish(self.observed, *grid) for grid in grids)
        if rising.log_likelihood >= peaked.log_likelihood:
            return None
        return mean_field_peak(peaked.parameters["b_s"], peaked.parameters["kappa"], exact=True)

    def _shape_interval(self, law_name: str, estimate: float, parameter: str, definition: str) -> Interval:
        logs, likelihoods = [], []
        grids = [(part, parameter) for part in self._grids[law_name]]
        if law_name == "surge":
            # The plain law is the limit of the one with a plateau: data that allow one allow its B_noise too.
            grids += [(part, "b_s/kappa") for part in self._grids["surge_plateau"]]
        for (grid, levels), name in grids:
            shape = grid.shape()
            if name == "b_s/kappa":
                with np.errstate(divide="ignore"):
                    values = shape["b_s"] / np.maximum(shape["kappa"], 0.0)
            else:
                values = shape[name]
            usable = np.isfinite(values)
            logs.append(np.log(values[usable]))
            likelihoods.append(levels.log_likelihood.max(axis=1)[usable])
        values, near = pooled_profile(np.concatenate(logs), np.concatenate(likelihoods))
        threshold = _threshold(self.observed, law_name, self._noise_scatter(law_name))
        ends = profile_ends(values, near, float(near.max()), threshold)
        return interval(estimate, around(exp_ends(ends), estimate), definition)


def fit_laws(optima: Optima) -> LawFits:
    """Fit every law of `theory.LAWS` to the optima of one target.

    At least four batch sizes with an optimum or an edge, three of them optima, are needed; with fewer the result has
    no fits and says why. A law's `aicc` and `weight` are None where there are too few optima for its parameters
    (AICc needs n > k + 1, k counting the extra scatter).

    >>> b = np.array([4.0, 8.0, 16.0, 32.0, 64.0, 128.0])
    >>> draws = np.log(1e-3 * np.sqrt(b)) + 0.05 * np.random.default_rng(0).standard_normal((200, 6))
    >>> nothing = np.full(6, np.nan)
    >>> fits = fit_laws(Optima(b, draws[0], ("ok",) * 6, draws, nothing, draws * np.nan, (4,) * 6))
    >>> max(fits.fits, key=lambda fit: fit.weight or 0).name
    'sqrt'
    """
    observed = observe(optima)
    n, values = observed.log_lr.size, int(observed.values.sum())
    if n < MIN_OPTIMA or values < MIN_VALUES:
        return LawFits(observed, reason=_too_few(optima, observed))
    b_min, b_max = float(observed.batch_sizes[0]), float(observed.batch_sizes[-1])
    grids: LawGrids = {name: _lay_grids(observed, name, b_min, b_max) for name in LAWS}
    best = {name: max(_polished(observed, grids, name), key=lambda fit: fit.log_likelihood) for name in LAWS}
    criteria = {
        name: aicc(found.log_likelihood, len(LAWS[name].parameters), n) for name, found in best.items()
    }
    weights = akaike_weights(criteria)
    rising, peaked = grids["surge_plateau"]
    scatters = {name: found.scatter_sd for name, found in best.items()}
    threshold = _threshold(observed, "surge_plateau", _noise_scatter(scatters, criteria, "surge_plateau"))
    family = SurgeFamily(rising, peaked, grids["surge"][0], threshold, b_min, b_max)
    residuals = {
        name: LawResiduals(observed, validation_grids(grids[name]), found.scatter_sd)
        for name, found in best.items()
    }
    chosen = selection_frequencies(residuals, criteria, observed, draws_of_values(optima, observed))
    return LawFits(
        observed,
        tuple(
            LawFit(
                name=name,
                parameters=found.parameters,
                aicc=criteria[name],
                weight=weights[name],
                left_out_error=residuals[name].left_out_error(),
                selection_frequency=chosen[name],
            )
            for name, found in best.items()
        ),
        scatter_sd=scatters,
        monotone_plateau_aicc=aicc(polish(observed, *rising).log_likelihood, FAMILY_PARAMETERS, n),
        b_peak=family.b_peak(_peak_estimate(best, criteria)),
        kappa=family.kappa(best["surge_plateau"].parameters["kappa"]),
        _grids=grids,
    )


def _lay_grids(
    observed: Observations, name: str, b_min: float, b_max: float, *, exact: bool = False
) -> tuple[tuple[CurveGrid, LevelFit], ...]:
    """Fit a law's grids, then again, finer, where they are likely."""
    wide = [
        (grid, fit_levels(observed, grid.curves(observed.batch_sizes)))
        for grid in curve_grids(name, b_min, b_max, exact=exact)
    ]
    best = max(float(levels.log_likelihood.max()) for _, levels in wide)
    fine = [grid.zoomed(levels.log_likelihood.max(axis=1) > best - _ZOOM) for grid, levels in wide]
    return tuple(
        first if grid is first[0] else (grid, fit_levels(observed, grid.curves(observed.batch_sizes)))
        for first, grid in zip(wide, fine, strict=True)
    )


def _noise_scatter(scatters: Mapping[str, float], criteria: Mapping[str, float | None], name: str) -> float:
    """Extra scatter that an interval of one law counts with: at least that of the best law by AICc.

    A law with parameters to spare can follow the noise and leave no scatter of its own.
    """
    known = {law: value for law, value in criteria.items() if value is not None}
    best = min(known, key=known.__getitem__, default=name)
    return max(scatters[name], scatters[best])


def _threshold(observed: Observations, name: str, scatter_sd: float) -> float:
    """Fall in 2 log likelihood inside an interval, for one law and the extra scatter at its best fit."""
    seeds = float(np.median(observed.axes.variance))
    share = scatter_sd / math.hypot(scatter_sd, math.sqrt(seeds))
    return deviance_threshold(observed.log_lr.size, len(LAWS[name].parameters), share)


def validation_grids(parts: tuple[tuple[CurveGrid, LevelFit], ...]) -> list[CurveGrid]:
    """A law's grids, and finer ones about its best fit, where refits to a little less or other data mostly end."""
    tops = [levels.log_likelihood.max(axis=1) for _, levels in parts]
    near = max(float(top.max()) for top in tops) - _NEAR
    finer = [
        grid.zoomed(top > near)
        for (grid, _), top in zip(parts, tops, strict=True)
        if grid.axes and top.max() > near
    ]
    return [grid for grid, _ in parts] + finer


def _polished(observed: Observations, grids: LawGrids, name: str) -> list[BestFit]:
    return [polish(observed, grid, levels) for grid, levels in grids[name]]


def _peak_estimate(best: dict[str, BestFit], criteria: dict[str, float | None]) -> float | None:
    """B_peak of the better of the two surge laws by AICc, else by likelihood."""
    names = [name for name in ("surge", "surge_plateau") if criteria[name] is not None] or ["surge"]
    name = min(names, key=lambda law: criteria[law] or 0.0)
    return peak_batch_size(name, best[name].parameters)


def _too_few(optima: Optima, observed: Observations) -> str:
    n, values = observed.log_lr.size, int(observed.values.sum())
    found = [size for size, known in zip(optima.batch_sizes, optima.known(), strict=True) if known]
    vague = [f"{size:g}" for size in found if size not in observed.batch_sizes]
    needed = f"Laws need the optimum at {MIN_OPTIMA} or more batch sizes, {MIN_VALUES} of them inside the"
    if vague:
        sizes = f"batch size{'s' if len(vague) > 1 else ''} {', '.join(vague)}"
        return (
            f"The optimum at {sizes} was found without an interval, so no law can be weighed by it: run more "
            f"learning rates there, or more seeds. {needed} learning-rate grid, each with an interval or a "
            f"bound; here {n} {'has' if n == 1 else 'have'} one."
        )
    are, lie = "is" if n == 1 else "are", "lies" if values == 1 else "lie"
    return f"{needed} learning-rate grid; here {n} {are} known or bounded and {values} {lie} inside."
