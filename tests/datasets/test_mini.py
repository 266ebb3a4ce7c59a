"""The six tasks of suite mini as the harness sees them: split sizes, content, labels, and that none of it changes unnoticed."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from petlbench.data.source import ImageSource
from petlbench.data.task import SPLITS
from petlbench.datasets.mini import _digits, _shapes, mini
from petlbench.registry import TASKS

NAMES = ("biased_digits", "count", "digits", "loc_digits", "location", "textures")
NATIVE = {"biased_digits": 28, "count": 64, "digits": 32, "loc_digits": 64, "location": 64, "textures": 64}

# sha256 over labels and pixels of all splits, as computed by this file
CONTENT = {
    "biased_digits": "298a69ddb279d9a0c8efe10030eb9000fc490061ac24796b01e14645a9640a59",
    "count": "3b5d1e1e1be28c5e6ab9c300d90b47e3db87c80705cdf265410208826a2cf8b7",
    "digits": "a7deeb3983684791a1d0fb6339b18f44065d24056d77385a3ad079dcaeeb49e8",
    "loc_digits": "bdbfb0b59dbb324d83754c748dcdbe6ef740c26f90ad4706a7d9393e39407e4f",
    "location": "debbfdf02f048b9810b7c59459672766f021cc0bf447c05bcb34a23e5f7d50d6",
    "textures": "e938f02dd1a6b79037b69423c71c7d42d231e1ad07423482cc61b14a8f08cc38",
}

Split = tuple[np.ndarray, np.ndarray]  # labels (N,), images (N, H, W, 3)

FRESH_PROCESS = """
import hashlib
from petlbench.data.task import SPLITS
from petlbench.registry import TASKS
for name in TASKS.names():
    if name.startswith("mini/"):
        sources = [TASKS.get(name).source(split) for split in SPLITS]
        print(name, hashlib.sha256(b"".join(source.decode(i).tobytes() for source in sources for i in (0, 41, 99))).hexdigest())
"""


def source(name: str, split: str) -> ImageSource:
    return TASKS.get(f"mini/{name}").source(split)


def decoded(of: ImageSource) -> np.ndarray:
    return np.stack([of.decode(i) for i in range(len(of.labels))])


@pytest.fixture(scope="module")
def rendered() -> dict[str, dict[str, Split]]:
    sources = {name: {split: source(name, split) for split in SPLITS} for name in NAMES}
    return {name: {split: (of.labels, decoded(of)) for split, of in splits.items()} for name, splits in sources.items()}


def test_the_suite_is_these_six_tasks() -> None:
    assert [name for name in TASKS.names() if name.startswith("mini/")] == [f"mini/{name}" for name in NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_sizes_formats_and_labels_are_as_declared(name: str, rendered: dict[str, dict[str, Split]]) -> None:
    spec = TASKS.get(f"mini/{name}")
    assert spec.sizes == {"train": 400, "val": 100, "test": 500}
    assert len(set(spec.class_names)) == len(spec.class_names)
    assert spec.templates[0].count("{}") == 1
    for split, (labels, images) in rendered[name].items():
        assert images.shape == (spec.sizes[split], NATIVE[name], NATIVE[name], 3)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64 and labels.shape == (spec.sizes[split],)
        assert set(labels.tolist()) == set(range(len(spec.class_names)))


@pytest.mark.parametrize("name", NAMES)
def test_no_class_is_rare_or_dominant(name: str, rendered: dict[str, dict[str, Split]]) -> None:
    uniform = 1 / len(TASKS.get(f"mini/{name}").class_names)
    for split in ("train", "test"):
        shares = np.bincount(rendered[name][split][0]) / len(rendered[name][split][0])
        assert shares.min() > uniform / 2 and shares.max() < uniform * 2


@pytest.mark.parametrize("name", NAMES)
def test_no_image_occurs_twice_in_or_between_splits(name: str, rendered: dict[str, dict[str, Split]]) -> None:
    hashes = [hashlib.sha256(image.tobytes()).digest() for split in SPLITS for image in rendered[name][split][1]]
    assert len(set(hashes)) == 1000


@pytest.mark.parametrize("name", NAMES)
def test_content_is_that_of_the_revision(name: str, rendered: dict[str, dict[str, Split]]) -> None:
    digest = hashlib.sha256()
    for split in SPLITS:
        for part in rendered[name][split]:
            digest.update(part.tobytes())
    assert digest.hexdigest() == CONTENT[name], (
        f"mini/{name} has other images or labels than revision '{TASKS.get(f'mini/{name}').revision}': if the generator was changed "
        "on purpose, raise the revision in datasets/mini/mini.py and pin the new hash here; if not, look at the versions of numpy and Pillow"
    )


def test_a_fresh_process_renders_the_same_pixels(rendered: dict[str, dict[str, Split]]) -> None:
    printed = subprocess.run([sys.executable, "-c", FRESH_PROCESS], capture_output=True, text=True, check=True).stdout
    here = {
        f"mini/{name}": hashlib.sha256(b"".join(rendered[name][split][1][i].tobytes() for split in SPLITS for i in (0, 41, 99))).hexdigest()
        for name in NAMES
    }
    assert dict(line.split() for line in printed.splitlines()) == here


@pytest.mark.parametrize("name", NAMES)
def test_an_image_depends_neither_on_the_number_of_images_nor_on_the_order_of_reading(
    name: str, rendered: dict[str, dict[str, Split]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mini, "SIZES", dict.fromkeys(SPLITS, 12))
    for split in SPLITS:
        labels, images = rendered[name][split]
        short = source(name, split)
        np.testing.assert_array_equal(short.labels, labels[:12])
        for i in (11, 0, 5, 11):
            np.testing.assert_array_equal(short.decode(i), images[i])


@pytest.mark.parametrize("name", NAMES)
def test_there_is_no_image_after_the_last(name: str) -> None:
    with pytest.raises(IndexError):
        source(name, "val").decode(100)


def test_importing_the_suite_loads_no_scikit_learn() -> None:
    code = "import sys, petlbench.datasets.mini.mini; print([name for name in ('sklearn', 'scipy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["digits", "location"])
def test_the_nearest_training_image_predicts_the_class(name: str, rendered: dict[str, dict[str, Split]]) -> None:
    (train_labels, train), (test_labels, test) = (rendered[name][split] for split in ("train", "test"))
    a, b = (images[..., 0].reshape(len(images), -1).astype(np.float32) for images in (train, test))
    nearest = ((a**2).sum(1) - 2 * b @ a.T).argmin(axis=1)
    assert (train_labels[nearest] == test_labels).mean() > 1.5 * np.bincount(test_labels).max() / len(test_labels)


def test_digits_are_enlarged_originals_of_their_own_part(rendered: dict[str, dict[str, Split]]) -> None:
    for split, (labels, images) in rendered["digits"].items():
        originals, own_labels = _digits.handwriting(split)
        np.testing.assert_array_equal(labels, own_labels[: len(labels)])
        for i in (0, 17, 99):
            np.testing.assert_array_equal(images[i], np.repeat(_digits.enlarge(originals[i], 32)[..., None], 3, axis=2))


def test_whole_biased_parts_have_exactly_the_declared_share_of_own_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini, "SIZES", {"train": 1000, "val": 297, "test": 500})
    for split, rho in (("train", 0.8), ("val", 0.8), ("test", 0.2)):
        coloured = source("biased_digits", split)
        colours = np.array([background_colour(image) for image in decoded(coloured)])
        np.testing.assert_array_equal(np.sort(coloured.labels), np.sort(_digits.handwriting(split)[1]))
        for digit in range(10):
            own = colours[coloured.labels == digit]
            assert (own == digit).sum() == int(len(own) * rho)


def background_colour(image: np.ndarray) -> int:
    """Find the only colour besides white, as an index into the list; fail if there is none."""
    is_white = (image == 255).all(axis=2)
    assert 0.05 < is_white.mean() < 0.8
    (background,) = np.unique(image[~is_white], axis=0)
    (index,) = np.flatnonzero((background == _digits.COLOURS).all(axis=1))
    return int(index)


def test_bias_helps_in_training_and_misleads_in_test(rendered: dict[str, dict[str, Split]]) -> None:
    shares = {}
    for split, (labels, images) in rendered["biased_digits"].items():
        shares[split] = float(np.mean([background_colour(image) for image in images] == labels))
    assert shares["train"] == pytest.approx(0.8, abs=0.05) and shares["val"] == pytest.approx(0.8, abs=0.1)
    assert shares["test"] == pytest.approx(0.2, abs=0.02)


def test_loc_digits_lie_at_the_border_and_clear_of_the_distractor(rendered: dict[str, dict[str, Split]]) -> None:
    for _, images in rendered["loc_digits"].values():
        for grey in images[..., 0]:
            centre = grey[24:40, 24:40].copy()
            outside = grey.copy()
            outside[24:40, 24:40] = 0
            rows, cols = np.flatnonzero(outside.any(axis=1)), np.flatnonzero(outside.any(axis=0))
            assert centre.any() and np.ptp(rows) < 16 and np.ptp(cols) < 16
            assert rows.max() < 16 or rows.min() >= 48 or cols.max() < 16 or cols.min() >= 48


def test_location_labels_are_where_the_shape_is(rendered: dict[str, dict[str, Split]]) -> None:
    for split, (labels, images) in rendered["location"].items():
        latents = _shapes.draw_latents(split, len(labels), mini.SEED)
        is_symmetric = latents[:, 0] < 2  # the centre of a heart is not its centre of mass
        centres = np.array([np.flatnonzero(image[..., 0].any(axis=0)) @ weights(image) for image in images])
        x = np.rint((centres + 0.5 - 16) * 31 / 32)
        np.testing.assert_array_equal(x[is_symmetric] // 2, labels[is_symmetric])
        assert abs(x[~is_symmetric] - latents[~is_symmetric, 3]).max() <= 2


def weights(image: np.ndarray) -> np.ndarray:
    """Return the share of white pixels in each column that has any."""
    columns = (image[..., 0] > 0).sum(axis=0)
    return columns[columns > 0] / columns.sum()
