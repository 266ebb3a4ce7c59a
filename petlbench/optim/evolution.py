"""Minimising a function that can only be evaluated: evolution strategies behind one small interface.

Letters in shapes: P candidates of a population, d dimensions.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petlbench.errors import Diverged

Vectors = NDArray[np.float64]


class Strategy(Protocol):
    """Proposes candidates; `tell` reports their fitness, lower is better. Asking again without telling gives further candidates."""

    def ask(self) -> Vectors:
        """Return a new population (P, d)."""
        ...

    def tell(self, candidates: Vectors, fitness: ArrayLike) -> None:
        """Report the fitness (P,) of candidates (P, d)."""
        ...

    @property
    def mean(self) -> Vectors:
        """Return the centre (d,) of what is proposed."""
        ...

    @property
    def best(self) -> Vectors:
        """Return the candidate (d,) with the lowest fitness told so far, the first one at ties."""
        ...

    @property
    def stopped(self) -> bool:
        """Return True if further iterations are pointless."""
        ...


class CMAES:
    """CMA-ES (Hansen and Ostermeier 2001) of the package ``cma``, starting at 0 with a full covariance matrix.

    The step size follows the cumulative path (CSA). That is the package's own choice only below 300 dimensions: above, 4.5 takes a two-point rule
    that breaks when candidates are asked for and not told. Random numbers come from a stream of its own, the one that the package draws with the
    same seed, so that numpy's global state stays as it is.
    """

    def __init__(self, dimension: int, sigma: float, population: int, bound: float | None = None, seed: int = 0) -> None:
        """``sigma``: initial step; ``bound``: candidates stay in [-bound, bound] in every dimension."""
        from cma import CMAEvolutionStrategy  # here, because it takes seconds: it imports scipy.stats and matplotlib
        from cma.sigma_adaptation import CMAAdaptSigmaCSA

        options: dict[str, object] = {
            "popsize": population,
            "AdaptSigma": CMAAdaptSigmaCSA,
            "CMA_mirrors": 0,  # used below a population of 6, and lost when candidates are asked for and not told
            "seed": np.nan,  # "leave numpy's seed alone"
            "randn": np.random.RandomState(seed).randn,
            "verbose": -9,
            "signals_filename": "",  # no settings from a file that happens to lie in the working directory
        }
        if bound is not None:
            options["bounds"] = [-bound, bound]
        self._search = CMAEvolutionStrategy([0.0] * dimension, sigma, options)

    def ask(self) -> Vectors:
        return np.stack(self._search.ask())

    def tell(self, candidates: Vectors, fitness: ArrayLike) -> None:
        """Diverged when a fitness is not finite."""
        values = np.asarray(fitness, dtype=np.float64)
        if not np.isfinite(values).all():
            raise Diverged(f"the fitness of a candidate is {values[~np.isfinite(values)][0]}; lower the search's sigma or bound it")
        self._search.tell(list(candidates), values.tolist())

    @property
    def mean(self) -> Vectors:
        return np.asarray(self._search.result.xfavorite)

    @property
    def best(self) -> Vectors:
        return np.asarray(self._search.best.x)

    @property
    def stopped(self) -> bool:
        return bool(self._search.stop())
