"""Scenes of solids on a floor."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petlbench.datasets.mini import _scenes
from petlbench.datasets.mini.mini import SCENES

OPTIONS = st.sampled_from([SCENES, _scenes.SceneOptions()])


def solid_at(shape: str, x: float = 0.0, y: float = 0.0) -> _scenes.Solid:
    return _scenes.Solid(shape, x, y, 0.7, 0.3, (173, 35, 35), False)


def seen_from_the_usual_place(*solids: _scenes.Solid) -> _scenes.Scene:
    return _scenes.Scene(_scenes.Camera(np.array([7.5, -6.5, 5.4]), SCENES), solids, SCENES)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), OPTIONS)
def test_a_scene_has_as_many_objects_as_its_label_says_and_all_can_be_seen(seed: int, options: _scenes.SceneOptions) -> None:
    label = _scenes.draw_count_label(np.random.default_rng(seed))
    scene = _scenes.draw_scene(np.random.default_rng(seed), options)
    assert len(scene.solids) == label + 3
    visible = _scenes.visible_pixels(scene)
    assert visible.shape == (label + 3,) and visible.min() >= 12
    assert _scenes.render_scene(scene).shape == (options.height, options.width, 3)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), OPTIONS)
def test_objects_keep_their_distance_and_come_farthest_first(seed: int, options: _scenes.SceneOptions) -> None:
    scene = _scenes.draw_scene(np.random.default_rng(seed), options)
    for a, b in itertools.combinations(scene.solids, 2):
        assert math.hypot(a.x - b.x, a.y - b.y) - a.half - b.half >= _scenes.GAP
    depths = scene.camera.depth(np.array([(solid.x, solid.y, solid.half) for solid in scene.solids]))
    assert (np.diff(depths) <= 0).all()
    for solid in scene.solids:
        assert abs(solid.x) <= 3 and abs(solid.y) <= 3
        assert solid.half in {size / (math.sqrt(2) if solid.shape == "cube" else 1) for size in options.sizes}


def test_visible_area_of_a_lone_sphere_is_its_disc() -> None:
    scene = seen_from_the_usual_place(solid_at("sphere"))
    depth = float(scene.camera.depth(np.array([(0.0, 0.0, 0.7)]))[0])
    assert _scenes.visible_pixels(scene) == pytest.approx(math.pi * (1.1 * 64 * 0.7 / depth) ** 2, rel=0.03)


@pytest.mark.parametrize("shape", _scenes.SHAPES)
def test_an_object_behind_another_loses_what_is_covered(shape: str) -> None:
    behind, front = solid_at(shape, -0.6, 0.52), solid_at(shape, 0.6, -0.52)  # on one line with the camera
    alone = _scenes.visible_pixels(seen_from_the_usual_place(behind))[0]
    both = _scenes.visible_pixels(seen_from_the_usual_place(behind, front))
    assert 0 < both[0] < 0.8 * alone < both[1]
    assert _scenes.visible_pixels(seen_from_the_usual_place(behind, behind))[0] == 0


@pytest.mark.parametrize("shape", _scenes.SHAPES)
def test_visible_area_is_where_the_picture_shows_the_object(shape: str) -> None:
    scene = seen_from_the_usual_place(solid_at(shape))
    picture = _scenes.render_scene(scene).astype(int)
    is_red = picture[..., 0] - picture[..., 2] > 10  # background and shadow are grey
    assert is_red.sum() == pytest.approx(_scenes.visible_pixels(scene)[0], rel=0.25)
    rows, cols = np.nonzero(is_red)
    assert abs(cols.mean() - 31.5) < 1 and 25 < rows.mean() < 32


def test_light_comes_from_the_upper_left() -> None:
    picture = _scenes.render_scene(seen_from_the_usual_place(solid_at("sphere"))).astype(int)
    red = np.clip(picture[..., 0] - picture[..., 2], 10, None) - 10  # background and shadow are grey
    row, col = np.unravel_index(red.argmax(), red.shape)
    rows, cols = np.nonzero(red)
    assert row < rows.mean() and col < cols.mean()


def test_counts_are_uniform_although_scenes_are_rejected() -> None:
    labels = [_scenes.draw_count_label(np.random.default_rng([1, 0, i])) for i in range(4000)]
    assert np.bincount(labels, minlength=8) == pytest.approx(500, abs=110)
