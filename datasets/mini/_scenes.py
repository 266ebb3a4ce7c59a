"""Shaded 3-D scenes of cubes, spheres and cylinders on a floor, with the layout rules of CLEVR's generator (Johnson et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._raster import fill_disc, fill_polygon, reduce_by

COUNTS = range(3, 11)
COLOURS = (
    (87, 87, 87), (173, 35, 35), (42, 75, 215), (29, 105, 20), (129, 74, 25), (129, 38, 192), (41, 208, 208), (255, 238, 51),
)  # fmt: skip
SIDES = {"cube": 4, "cylinder": 20}
SHAPES = ("cube", "sphere", "cylinder")
GAP = 0.25  # least free space between two objects on the floor
TRIES = 100  # positions tried for an object before the scene is restarted
LIGHT = np.array([-0.4, -0.5, 0.77])  # towards the light; comes from the upper left of the picture
OVERSAMPLING = 3
SHADOW_GREY = 110
DISCS = 8  # of a sphere

Points = NDArray[np.float64]  # (N, 3), world coordinates with z up


@dataclass(frozen=True)
class SceneOptions:
    """Size of the picture, and the range of its content."""

    width: int = 96
    height: int = 64
    focal_over_width: float = 1.09
    sizes: tuple[float, ...] = (0.7, 0.35)
    min_visible_pixels: float = 12  # of every object, at this width and height


class Solid(NamedTuple):
    """One object standing on the floor; half is its radius and half its height (for a cube, half its side)."""

    shape: str
    x: float
    y: float
    half: float
    rotation: float
    colour: tuple[int, int, int]
    is_metal: bool


class Polygon(NamedTuple):
    """A projected flat face, in pixels of the oversampled picture."""

    points: NDArray[np.float64]  # (corners, 2)
    fill: tuple[int, int, int]

    def draw(self, canvas: NDArray[np.uint8], fill: int | tuple[int, int, int]) -> None:
        fill_polygon(canvas, self.points, fill)


class Disc(NamedTuple):
    """A projected layer of a sphere, in pixels of the oversampled picture."""

    centre: tuple[float, float]
    radius: float
    fill: tuple[int, int, int]

    def draw(self, canvas: NDArray[np.uint8], fill: int | tuple[int, int, int]) -> None:
        fill_disc(canvas, self.centre, self.radius, fill)


class Camera:
    """A pinhole at ``position`` that looks at the origin; projects to pixels of the oversampled picture."""

    def __init__(self, position: NDArray[np.float64], options: SceneOptions) -> None:
        self.position = position
        self.forward = -position / np.linalg.norm(position)
        right = np.cross(self.forward, (0.0, 0.0, 1.0))
        self.right = right / np.linalg.norm(right)
        self.down = np.cross(self.forward, self.right)
        self.focal = options.focal_over_width * options.width * OVERSAMPLING
        self.centre = (options.width * OVERSAMPLING / 2, options.height * OVERSAMPLING / 2)

    def depth(self, points: Points) -> NDArray[np.float64]:
        """(N,): distance along the view direction."""
        return (points - self.position) @ self.forward

    def project(self, points: Points) -> NDArray[np.float64]:
        """(N, 2): x to the right and y down."""
        rays = points - self.position
        scale = self.focal / (rays @ self.forward)
        return np.stack([rays @ self.right * scale, rays @ self.down * scale], axis=1) + self.centre


@dataclass(frozen=True)
class Scene:
    """Objects, farthest first, seen by a camera."""

    camera: Camera
    solids: tuple[Solid, ...]
    options: SceneOptions


def draw_count_label(rng: np.random.Generator) -> int:
    """Draw the label, first of all draws of an image: number of objects - 3."""
    return int(rng.integers(len(COUNTS)))


def draw_scene(rng: np.random.Generator, options: SceneOptions) -> Scene:
    """Draw a scene in which every object is visible. A rejected scene is drawn again with the same count, so counts stay uniform."""
    count = COUNTS[draw_count_label(rng)]
    while True:
        solids = _place_solids(rng, count, options.sizes)
        if solids is None:
            continue
        camera = Camera(np.array([7.5, -6.5, 5.4]) + rng.uniform(-0.5, 0.5, 3), options)
        depths = camera.depth(np.array([(solid.x, solid.y, solid.half) for solid in solids]))
        scene = Scene(camera, tuple(solids[i] for i in np.argsort(-depths)), options)
        if visible_pixels(scene).min() >= options.min_visible_pixels:
            return scene


def _place_solids(rng: np.random.Generator, count: int, sizes: tuple[float, ...]) -> list[Solid] | None:
    """Place objects that keep their distance; None when one cannot be placed."""
    solids: list[Solid] = []
    for _ in range(count):
        shape = SHAPES[rng.integers(len(SHAPES))]
        size = sizes[rng.integers(len(sizes))]
        half = size / math.sqrt(2) if shape == "cube" else size
        rotation = rng.uniform(0, 2 * math.pi)
        colour, is_metal = COLOURS[rng.integers(len(COLOURS))], bool(rng.integers(2))
        for x, y in rng.uniform(-3, 3, (TRIES, 2)).tolist():
            if all(math.hypot(x - other.x, y - other.y) - half - other.half >= GAP for other in solids):
                solids.append(Solid(shape, x, y, half, rotation, colour, is_metal))
                break
        else:
            return None
    return solids


def visible_pixels(scene: Scene) -> NDArray[np.float64]:
    """(objects,): the area in pixels of the final picture over which each object is seen."""
    owners = np.zeros((scene.options.height * OVERSAMPLING, scene.options.width * OVERSAMPLING), np.uint8)
    for number, solid in enumerate(scene.solids, start=1):
        for patch in _patches(solid, scene.camera, only_outline=True):
            patch.draw(owners, number)
    counts = np.bincount(owners.ravel(), minlength=len(scene.solids) + 1)
    return counts[1:] / OVERSAMPLING**2


def render_scene(scene: Scene) -> NDArray[np.uint8]:
    """(height, width, 3)."""
    width, height = scene.options.width * OVERSAMPLING, scene.options.height * OVERSAMPLING
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = np.rint(np.linspace(150, 190, height))[:, None, None]
    for solid in scene.solids:
        fill_polygon(picture, _shadow(solid, scene.camera), SHADOW_GREY)
    for solid in scene.solids:
        for patch in _patches(solid, scene.camera):
            patch.draw(picture, patch.fill)
    return reduce_by(picture, OVERSAMPLING)


def _ring(sides: int, rotation: float) -> NDArray[np.float64]:
    """(sides, 2): corners of a regular polygon of radius 1."""
    angles = rotation + np.arange(sides) * (2 * math.pi / sides)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _shadow(solid: Solid, camera: Camera) -> NDArray[np.float64]:
    floor = np.zeros((20, 3))
    floor[:, :2] = _ring(20, 0.0) * (1.15 * solid.half) + (solid.x + 0.25 * solid.half, solid.y + 0.3 * solid.half)
    return camera.project(floor)


def _patches(solid: Solid, camera: Camera, only_outline: bool = False) -> Sequence[Polygon | Disc]:
    """Return the visible patches of an object; later ones cover earlier ones."""
    return _sphere(solid, camera, 1 if only_outline else DISCS) if solid.shape == "sphere" else _prism(solid, camera)


def _sphere(solid: Solid, camera: Camera, discs: int) -> list[Disc]:
    """Discs that get smaller, brighter and nearer to the light, each inside the one before."""
    centre = np.array([(solid.x, solid.y, solid.half)])
    x, y = camera.project(centre)[0].tolist()
    radius = camera.focal * solid.half / float(camera.depth(centre)[0])
    shifts = [0.5 * radius * k / DISCS for k in range(discs)]
    return [Disc((x - shift, y - shift), radius * (1 - k / DISCS), _shade(solid, k / (DISCS - 1))) for k, shift in enumerate(shifts)]


def _prism(solid: Solid, camera: Camera) -> list[Polygon]:
    """Side faces that look at the camera, then the top."""
    sides = SIDES[solid.shape]
    radius = solid.half * math.sqrt(2) if solid.shape == "cube" else solid.half
    ring = _ring(sides, solid.rotation)
    corners = np.empty((2 * sides, 3))  # the lower ring, then the upper
    corners[:, :2] = np.tile(ring * radius + (solid.x, solid.y), (2, 1))
    corners[:sides, 2], corners[sides:, 2] = 0.0, 2 * solid.half
    pixels = camera.project(corners)
    normals = ring + np.roll(ring, -1, axis=0)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    faces_camera = ((camera.position[:2] - corners[:sides, :2]) * normals).sum(axis=1) > 0
    patches = []
    for i in np.flatnonzero(faces_camera):
        j = (i + 1) % sides
        patches.append(Polygon(pixels[[i, j, sides + j, sides + i]], _shade(solid, float(normals[i] @ LIGHT[:2]))))
    patches.append(Polygon(pixels[sides:], _shade(solid, float(LIGHT[2]))))
    return patches


def _shade(solid: Solid, cosine: float) -> tuple[int, int, int]:
    """Lambert's law with ambient light; metal has a highlight. ``cosine``: of the angle between the surface normal and the light."""
    light = max(0.0, cosine)
    highlight = 60 * light**4 if solid.is_metal else 0.0
    red, green, blue = (min(255, round(channel * (0.35 + 0.65 * light) + highlight)) for channel in solid.colour)
    return red, green, blue
