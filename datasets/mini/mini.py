"""Suite ``mini``: six small tasks that are rendered, without a download, and read at 32x32.

They are for development and never count as the benchmarks they resemble. The embedded backbone ``mini_clip`` was trained on
glyphs of fonts and procedural strokes, flat coloured shapes and textures of its own; the descriptions say how far each task is from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from petlbench.data.source import RenderedSource
from petlbench.data.task import SPLITS, TaskSpec, register_task

from . import _digits, _scenes, _shapes, _textures

SEED = 0
REVISIONS = {
    "digits": "digits-1",
    "biased_digits": "biased-digits-1",
    "loc_digits": "loc-digits-1",
    "textures": "textures-1",
    "count": "count-1",
    "location": "location-1",
}  # of the images and labels; tests/datasets/test_mini.py notices when one must be raised
SIZES = {"train": 400, "val": 100, "test": 500}
RHO = {"train": 0.8, "val": 0.8, "test": 0.2}  # share of images whose colour gives the digit away: Biased-MNIST, easy
GLYPH_SIZE, GLYPH_THRESHOLD = 28, 128  # "> 0" as in the original would make 70 % of these blurred digits white
CANVAS, DIGIT_SIZE, DISTRACTOR_SIZE = 64, 16, 16  # Loc-MNIST, 1:1
SCENES = _scenes.SceneOptions(width=64, height=64, focal_over_width=1.1, sizes=(0.7,))  # at 32x32 the small size would be 2 pixels wide


def _stream(split: str, *index: int) -> np.random.Generator:
    return np.random.default_rng([SEED, SPLITS.index(split), *index])


def _rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=-1)


def _drawn_per_image(
    split: str, draw_label: Callable[[np.random.Generator], int], render: Callable[[np.random.Generator], NDArray[np.uint8]]
) -> RenderedSource:
    """Image i depends on the seed, the split and i alone; its label is the first thing drawn."""
    indices = range(SIZES[split])
    return RenderedSource([draw_label(_stream(split, i)) for i in indices], lambda index: render(_stream(split, indices[index])))


def _digits_source(split: str) -> RenderedSource:
    images, labels = (part[: SIZES[split]] for part in _digits.handwriting(split))
    return RenderedSource(labels, lambda index: _rgb(_digits.enlarge(images[index], 32)))


def _biased_source(split: str) -> RenderedSource:
    """Colour and shuffle the whole split by the rule; the task is the beginning of the result."""
    images, labels = _digits.handwriting(split)
    order, colours = _digits.biased_colours(labels, RHO[split], _stream(split).shuffle)
    order, colours = order[: SIZES[split]], colours[: SIZES[split]]

    def render(index: int) -> NDArray[np.uint8]:
        return _digits.colour_background(_digits.enlarge(images[order[index]], GLYPH_SIZE), colours[index], GLYPH_THRESHOLD)

    return RenderedSource(labels[order], render)


def _loc_source(split: str) -> RenderedSource:
    """Distractors come from the whole part."""
    images, labels = _digits.handwriting(split)
    members = _digits.members_by_class(labels)
    indices = range(SIZES[split])

    def render(index: int) -> NDArray[np.uint8]:
        place = _digits.draw_placement(_stream(split, indices[index]).integers, members, CANVAS, DIGIT_SIZE)
        sizes = {"canvas": CANVAS, "digit_size": DIGIT_SIZE, "distractor_size": DISTRACTOR_SIZE}
        return _rgb(_digits.compose(images[index], images[place.distractor], place, **sizes))

    return RenderedSource(labels[: SIZES[split]], render)


def _textures_source(split: str) -> RenderedSource:
    return _drawn_per_image(split, _textures.draw_texture_label, lambda rng: _rgb(_textures.render_texture(rng)))


def _count_source(split: str) -> RenderedSource:
    return _drawn_per_image(split, _scenes.draw_count_label, lambda rng: _scenes.render_scene(_scenes.draw_scene(rng, SCENES)))


def _location_source(split: str) -> RenderedSource:
    latents = _shapes.draw_latents(split, SIZES[split], SEED)
    return RenderedSource(_shapes.location_labels(latents), lambda index: _rgb(_shapes.render_shape(latents[index])))


def _register(name: str, source: Callable[[str], RenderedSource], class_names: Iterable[object], template: str, description: str) -> None:
    spec = TaskSpec(
        name=f"mini/{name}",
        class_names=tuple(str(class_name) for class_name in class_names),
        templates=(template,),
        revision=REVISIONS[name],
        source=source,
        sizes=dict(SIZES),
        description=description,
    )
    register_task(spec, __name__)


_register(
    "digits",
    _digits_source,
    range(10),
    "a photo of the number {}.",
    "Handwritten digits of scikit-learn, 8x8 enlarged to 32x32, white on black. "
    "Off the pretraining images: real handwriting, not glyphs of a font and procedural strokes.",
)
_register(
    "biased_digits",
    _biased_source,
    range(10),
    "This is a photo of {}",
    "Handwritten digits, white on a background whose colour goes with the digit in 80 % of the training and validation images and in "
    "20 % of the test images (rule of Biased-MNIST). Off the pretraining images: real handwriting, and a colour that misleads.",
)
_register(
    "loc_digits",
    _loc_source,
    range(10),
    "This is a photo of {}",
    "A small handwritten digit at the border, which is the class, and another in the centre, which is not (rule of Loc-MNIST, 1:1). "
    "Off the pretraining images: real handwriting, and a prompt that does not say which of the two is meant.",
)
_register(
    "textures",
    _textures_source,
    _textures.PATTERNS,
    "{} texture.",
    "Twelve procedural grey textures with noise. The nearest of the six to the pretraining images, in which these names occur too: "
    "off them by another generator, grey levels only and one octave of frequencies.",
)
_register(
    "count",
    _count_source,
    _scenes.COUNTS,
    "a picture of {} objects.",
    "Three to ten cubes, spheres and cylinders on a floor, partly hidden by one another. "
    "Off the pretraining images: shaded 3-D scenes in perspective with shadows, not flat shapes side by side.",
)
_register(
    "location",
    _location_source,
    (round((2 * label + 0.5) / 31 * 100) for label in range(16)),  # of two neighbouring positions the mean, in percent of 0..31
    "an object located at position {}% on the horizontal axis.",
    "One square, ellipse or heart; the class is the horizontal position of its centre in sixteen steps. "
    "Off the pretraining images: plain white polygons, two of them of a new kind, and per cent of the positions, not of the picture.",
)
