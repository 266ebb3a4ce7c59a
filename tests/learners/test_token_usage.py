"""Measure how much each class uses each token of a library; a run stores this beside its record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petlbench.data.batches import Batches
from petlbench.errors import RecordError
from petlbench.learners.token_usage import TokenUsage, packed_usage, read_usage, token_usage
from petlbench.method import Deployable, QueryMethod
from petlbench.records.store import RecordStore
from petlbench.runs.execute import execute
from petlbench.testing.mocks import mock_task
from tests.near import assert_near
from tests.words import resolve

TASK = mock_task()
NAMES = TASK.spec.class_names


class Brightness(QueryMethod):
    """Two prompts of two tokens; the brighter an image, the more it uses of the second."""

    def fit(self, model: object, data: object) -> None: ...

    def predict(self, model: object, images: Tensor) -> Tensor:
        return images

    def deployable(self) -> Deployable:
        def coefficients(images: Tensor) -> Tensor:
            share = images.mean(dim=(1, 2, 3))[:, None].sigmoid() * torch.tensor([0.5, 1.0])
            return torch.stack([1 - share, share], dim=-1)

        return Deployable(torch.zeros(2, 4), coefficients)


class Plain(Brightness):
    def deployable(self) -> None:  # type: ignore[override]
        return None


def batches(size: int) -> Batches:
    return Batches(TASK.test, TASK.transform, size, torch.device("cpu"))


@pytest.mark.parametrize("size", [5, 24])
def test_it_is_the_mean_over_the_images_of_a_class_and_their_prompts(size: int) -> None:
    usage = token_usage(Brightness(None), batches(size), NAMES)
    assert usage is not None
    images, labels = next(batches(24).in_order())
    share = 0.75 * images.mean(dim=(1, 2, 3)).sigmoid()
    expected = torch.stack([share[labels == label].mean() for label in range(3)])
    assert_near(usage.coefficients, torch.stack([1 - expected, expected], dim=1))


def test_a_class_without_images_uses_nothing() -> None:
    usage = token_usage(Brightness(None), batches(24), (*NAMES, "absent"))
    assert usage is not None and usage.coefficients[3].tolist() == [0, 0]


def test_methods_without_a_library_have_none() -> None:
    assert token_usage(Plain(None), batches(24), NAMES) is None
    assert token_usage(nn.Module(), batches(24), NAMES) is None  # type: ignore[arg-type]


def test_what_is_saved_can_be_read(tmp_path: Path) -> None:
    usage = TokenUsage(torch.rand(2, 3), ("a", "b"))
    (tmp_path / "x.safetensors").write_bytes(packed_usage(usage))
    again = read_usage(tmp_path / "x.safetensors")
    assert torch.equal(again.coefficients, usage.coefficients) and again.class_names == usage.class_names


@pytest.mark.parametrize("content", [None, b"", b"not safetensors"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(RecordError, match=r"x\.safetensors: the token usage of a run cannot be read"):
        read_usage(tmp_path / "x.safetensors")


def test_a_run_leaves_it_beside_its_record(tmp_path: Path) -> None:
    small = ("method.channels=8", "method.groups=1", "method.library_size=5", "method.prompts=1", "train.epochs=1", "train.warmup_epochs=0")
    record, path = execute(resolve(["method=pgn", "task=mini/digits", *small, f"out={tmp_path}", "threads=1", "curve=false"]), reraise=True)
    assert record.token_usage is not None
    usage = read_usage(path.parent / record.token_usage)
    assert usage.coefficients.shape == (10, 5) and len(usage.class_names) == 10
    assert_near(usage.coefficients.sum(dim=1), torch.ones(10))
    assert [path.name for path in RecordStore(tmp_path).paths()] == [path.name]
