"""Biased-MNIST and Loc-MNIST: digit, colour, place and distractor of every image, and the pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from petlbench.datasets.mini import _digits
from tests.golden.case import Case

CANVAS, DIGIT_SIZE = 224, 28


def check(case: Case) -> None:
    images, labels = (case.tensors[f"source.{name}"].numpy() for name in ("images", "labels"))
    for n_confusing in case.config["n_confusing"]:
        for rho in case.config["rhos"]:
            _check_biased(case, images, labels, rho, n_confusing)
    assert case.config["loc_real_scale"] == 1
    for scale in case.config["loc_fake_scale"]:
        _check_located(case, images, labels, scale)


def _check_biased(case: Case, images: NDArray[np.uint8], labels: NDArray[np.int64], rho: float, n_confusing: int) -> None:
    generators = {"ordered": None, "shuffled": np.random.RandomState(case.config["biased_numpy_seed"]).shuffle}
    for order, shuffle in generators.items():
        indices, colours = _digits.biased_colours(labels, rho, shuffle, n_confusing)
        found = {"labels": labels[indices], "colours": colours, "images_corner": _digits.COLOURS[colours]}
        prefix = f"expected.biased.rho{rho}.ncl{n_confusing}.{order}."
        expected = case.below(prefix)
        if "images_first8" in expected:
            first = range(len(expected["images_first8"]))
            found["images_first8"] = np.stack([_digits.colour_background(images[indices[i]], int(colours[i])) for i in first])
        assert {"labels", "colours"} <= expected.keys() <= found.keys()
        for name in expected:
            case.check(prefix + name, torch.from_numpy(found[name]), atol=0, rtol=0)


def _check_located(case: Case, images: NDArray[np.uint8], labels: NDArray[np.int64], scale: int) -> None:
    draw = np.random.RandomState(case.config["loc_numpy_seed"]).randint
    digits, places = zip(*_digits.original_placements(labels, draw, CANVAS, DIGIT_SIZE), strict=True)
    sizes = {"canvas": CANVAS, "digit_size": DIGIT_SIZE, "distractor_size": DIGIT_SIZE * scale}
    canvases = np.stack([_digits.compose(images[i], images[p.distractor], p, **sizes) for i, p in zip(digits, places, strict=True)])
    found = {
        "source_index": np.array(digits),
        "position": np.array([(p.row, p.col) for p in places]),
        "fake_index": np.array([p.distractor for p in places]),
        "canvas_first2": canvases[:2],
        "canvas_sum": canvases.sum(axis=(1, 2), dtype=np.float64),
    }
    prefix = f"expected.loc.f{scale}."
    assert case.below(prefix).keys() == found.keys()
    for name, value in found.items():  # the resize is exact, so nothing needs the tolerance that the case gives to others
        case.check(prefix + name, torch.from_numpy(value), atol=0, rtol=0)
