"""The mixture of image-caption pairs: half glyphs, three tenths coloured shapes, a fifth textures.

Image `index` of a seed depends on `numpy.random.default_rng([seed, index])` only, so a prefix of a larger set is a smaller set.
"""

from __future__ import annotations

import string

import numpy as np
from PIL import Image

from tools.pretrain_mini_clip import glyphs, shapes, textures
from tools.pretrain_mini_clip.colours import COLOURS, NAMES, contrasting_pair, jittered

SIZE = 32
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

DIGIT_TEMPLATES = (
    "a photo of the number {}.",
    "This is a photo of {}",
    "This is a photo of a {}",
    "a photo of a {}.",
    "the digit {}",
    "a handwritten {}",
)
LETTER_TEMPLATES = ("a photo of the letter {}.", "the letter {}", "This is a photo of the letter {}")
TEXTURE_TEMPLATES = ("{} texture.", "a photo of a {} texture.", "a {} pattern", "This is a photo of a {} texture")
COUNT_TEMPLATES = ("a picture of {} objects.", "This is a photo of {} objects", "{} objects", "there are {} things")
POSITION_TEMPLATES = (
    "an object located at position {}% on the {} axis.",
    "a {name} at position {}% on the {} axis",
)


def pair(seed: int, index: int) -> tuple[np.ndarray, str]:
    """One image, (32, 32, 3) uint8, and its caption."""
    rng = np.random.default_rng([seed, index])
    kind = rng.random()
    if kind < 0.34:
        pixels, caption = _glyph(rng, letter=False)
    elif kind < 0.39:
        pixels, caption = _two_glyphs(rng)
    elif kind < 0.49:
        pixels, caption = _glyph(rng, letter=True)
    elif kind < 0.62:
        pixels, caption = _count(rng)
    elif kind < 0.74:
        pixels, caption = _position(rng)
    elif kind < 0.80:
        pixels, caption = _shape(rng)
    else:
        pixels, caption = _texture(rng)
    if rng.random() < 0.4:
        pixels = pixels + rng.uniform(2, 22) * rng.standard_normal(pixels.shape, np.float32)
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8), caption


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _number(rng: np.random.Generator, value: int, words: float = 0.25) -> str:
    """A number as numeral or, with probability `words`, as a word."""
    return WORDS[value] if rng.random() < words else str(value)


def _painted(mask: np.ndarray, foreground: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Mix two RGB colours by a mask (H, W) in [0, 1]; (H, W, 3) in 0..255."""
    return np.asarray(background + mask[:, :, None] * (foreground - background))


def _ink(rng: np.random.Generator) -> tuple[str, np.ndarray, str, np.ndarray]:
    """Colours for a glyph: mostly light on black as scans are, also dark on light, white on colour and any contrasting pair."""
    style = rng.random()
    if style < 0.5:
        return "white", np.full(3, rng.uniform(190, 255), np.float32), "black", np.full(3, rng.uniform(0, 25), np.float32)
    if style < 0.6:
        return "black", np.full(3, rng.uniform(0, 50), np.float32), "white", np.full(3, rng.uniform(200, 255), np.float32)
    if style < 0.75:
        name = NAMES[rng.integers(9)]  # one of the chromatic colours
        return "white", np.full(3, 255, np.float32), name, jittered(rng, name)
    return contrasting_pair(rng)


def _mask(rng: np.random.Generator, character: str) -> Image.Image:
    if character in glyphs.SKELETONS and rng.random() < 0.62:
        return glyphs.handwritten(rng, character)
    return glyphs.printed(rng, character)


def _bottleneck(rng: np.random.Generator) -> int | None:
    """Resolution that the glyph passes through: none in three cases of ten, else 8 to 16 px with 8 the most frequent."""
    return None if rng.random() < 0.3 else (8, 8, 8, 10, 12, 16)[rng.integers(6)]


def _glyph(rng: np.random.Generator, letter: bool) -> tuple[np.ndarray, str]:
    """One digit or letter: large and central in most cases, else small and anywhere."""
    character = string.ascii_letters[rng.integers(52)] if letter else str(rng.integers(10))
    mask = _mask(rng, character)
    small = rng.random() < 0.2
    height = rng.uniform(8, 16) if small else rng.uniform(20 if rng.random() < 0.5 else 28, 32)
    height = min(height, SIZE * mask.height / mask.width)  # wide glyphs must fit
    width = height * mask.width / mask.height
    if small:
        left, top = rng.uniform(0, SIZE - width), rng.uniform(0, SIZE - height)
    else:
        left = np.clip((SIZE - width) / 2 + rng.normal(0, 2), 0, SIZE - width)
        top = np.clip((SIZE - height) / 2 + rng.normal(0, 2), 0, SIZE - height)
    levels = glyphs.placed([(mask, height, left, top)], SIZE, None if small else _bottleneck(rng))
    ink, foreground, paper, background = _ink(rng)
    if letter:
        caption = _pick(rng, LETTER_TEMPLATES).format(character.lower())
    else:
        name = _number(rng, int(character), 0.15)
        style = rng.random()
        if style < 0.8:
            caption = _pick(rng, DIGIT_TEMPLATES).format(name)
        elif style < 0.93:
            caption = f"a {ink} {name} on a {paper} background"
        else:
            caption = f"a {'small' if small else 'large'} {name}"
    return _painted(levels, foreground, background), caption


def _two_glyphs(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A small digit that touches the border and another digit in the centre; the caption names one by its place, or both."""
    border, centre = (str(value) for value in rng.integers(0, 10, 2))
    small, large = _mask(rng, border), _mask(rng, centre)
    height = min(rng.uniform(8, 12), 14 * small.height / small.width)
    width = height * small.width / small.height
    across, along = float(rng.integers(0, 2)), rng.random()
    left, top = along * (SIZE - width), across * (SIZE - height)
    if rng.random() < 0.5:
        left, top = across * (SIZE - width), along * (SIZE - height)
    large_height = min(rng.uniform(8, 18), 20 * large.height / large.width)
    large_width = large_height * large.width / large.height
    where = ((SIZE - large_width) / 2 + rng.normal(0, 1), (SIZE - large_height) / 2 + rng.normal(0, 1))
    levels = glyphs.placed([(large, large_height, *where), (small, height, left, top)], SIZE)
    _, foreground, _, background = _ink(rng)
    style = rng.random()
    if style < 0.4:
        caption = f"a {border} at the border"
    elif style < 0.55:
        caption = f"a {centre} in the centre"
    else:
        caption = f"a {border} at the border and a {centre} in the centre"
    return _painted(levels, foreground, background), caption


def _backdrop(rng: np.random.Generator, background: np.ndarray) -> shapes.Scene:
    """Plain in seven cases of ten, else a vertical gradient."""
    end = background if rng.random() < 0.7 else np.clip(background + rng.uniform(-50, 50), 0, 255)
    return shapes.Scene(SIZE, background, end)


def _count(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One to ten objects, alike or different."""
    count = int(rng.integers(1, 11))
    paper_name, background = _paper(rng)
    scene = _backdrop(rng, background)
    radius = rng.uniform(0.6, 1.0) * min(9.0 / np.sqrt(count), 7.0)
    alike = rng.random() < 0.4
    shape, colour = _pick(rng, shapes.SHAPES), _other_colour(rng, paper_name, background)
    shaded = rng.random() < 0.4
    for x, y in shapes.separated_positions(rng, count, radius, SIZE):
        if not alike:
            shape, colour = _pick(rng, shapes.SHAPES), _other_colour(rng, paper_name, background)
        scene.add(shape, (x, y), radius * rng.uniform(0.85, 1.1), rng.uniform(-0.4, 0.4), jittered(rng, colour, 10), shaded=shaded)
    name = _number(rng, count, 0.3)
    if alike and count > 1 and rng.random() < 0.5:
        return scene.pixels(), f"{name} {colour} {_plural(shape)}"
    return scene.pixels(), _pick(rng, COUNT_TEMPLATES).format(name)


def _position(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One coloured object in the middle half of the picture and where it is: in per cent of that half, as mini/location counts, or in words."""
    colour, foreground, _, background = contrasting_pair(rng)
    scene = _backdrop(rng, background)
    radius = rng.uniform(2.5, 7)
    across, down = rng.random(2)
    x, y = SIZE * (0.25 + 0.5 * across), SIZE * (0.25 + 0.5 * down)
    shape = _pick(rng, shapes.SHAPES)
    scene.add(shape, (x, y), radius, rng.uniform(0, 2 * np.pi), foreground)
    if rng.random() < 0.8:
        axis, value = ("horizontal", across) if rng.random() < 0.7 else ("vertical", down)
        step = 5 if rng.random() < 0.4 else 1
        percent = round(100 * value / step) * step
        return scene.pixels(), _pick(rng, POSITION_TEMPLATES).format(percent, axis, name=shape)
    column = ("left", "centre", "right")[int(3 * across)]
    row = ("top", "centre", "bottom")[int(3 * down)]
    place = row if row == column else f"{row} {column}".replace("centre ", "").replace(" centre", "")
    return scene.pixels(), f"a {colour} {shape} at the {place}"


def _shape(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """One large shape with its colour, or two side by side or one above the other."""
    colour, foreground, paper_name, background = contrasting_pair(rng)
    scene = _backdrop(rng, background)
    shape = _pick(rng, shapes.SHAPES)
    if rng.random() < 0.5:
        radius = rng.uniform(6, 14)
        x, y = 16 + rng.uniform(-1, 1, 2) * (16 - radius)
        scene.add(shape, (x, y), radius, rng.uniform(-0.5, 0.5), foreground, shaded=rng.random() < 0.3)
        if rng.random() < 0.5:
            return scene.pixels(), f"a photo of a {shape}."
        return scene.pixels(), f"a {colour} {shape} on a {paper_name} background"
    other, second = _pick(rng, shapes.SHAPES), _other_colour(rng, paper_name, background)
    near, far = rng.uniform(6, 10), rng.uniform(22, 26)
    a, b = 16 + rng.uniform(-4, 4, 2)
    beside = rng.random() < 0.5
    first_at, second_at = ((near, a), (far, b)) if beside else ((a, near), (b, far))
    scene.add(shape, first_at, rng.uniform(4, 7), rng.uniform(-0.4, 0.4), foreground)
    scene.add(other, second_at, rng.uniform(4, 7), rng.uniform(-0.4, 0.4), jittered(rng, second))
    relation = "left of" if beside else "above"
    return scene.pixels(), f"a {colour} {shape} {relation} a {second} {other}"


def _texture(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A texture between two colours, sometimes named with the colours or the direction."""
    name = tuple(textures.TEXTURES)[rng.integers(len(textures.TEXTURES))]
    levels, angle = textures.texture(rng, name, SIZE)
    first, foreground, second, background = contrasting_pair(rng)
    pixels = _painted(levels, foreground, background)
    style = rng.random()
    if style < 0.8:
        return pixels, _pick(rng, TEXTURE_TEMPLATES).format(name)
    if style < 0.93 or name not in ("lined", "banded"):
        return pixels, f"a {first} and {second} {name} texture"
    vertical = min(angle, 180 - angle)  # of the normal to the stripes: 0 means upright stripes
    direction = "vertical" if vertical < 30 else "horizontal" if vertical > 60 else "diagonal"
    return pixels, f"{direction} {name} texture."


def _paper(rng: np.random.Generator) -> tuple[str, np.ndarray]:
    """A background for several objects: gray, black or white in most cases."""
    name = ("gray", "gray", "black", "white")[rng.integers(4)] if rng.random() < 0.75 else NAMES[rng.integers(len(NAMES))]
    return name, jittered(rng, name)


def _other_colour(rng: np.random.Generator, paper_name: str, background: np.ndarray) -> str:
    """A colour name that stands out from the background."""
    while True:
        name = NAMES[rng.integers(len(NAMES))]
        if name != paper_name and np.linalg.norm(np.array(COLOURS[name]) - background) > 80:
            return name


def _plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")
