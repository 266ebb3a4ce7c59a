"""Attacks on the counts of a run: whatever a method hands over, and whenever it asks, the record says what the server has counted."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from petlbench.access.handle import QueryModel, StoredImages
from petlbench.access.rungs import Access
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.data.batches import TrainingData
from petlbench.errors import AccessError
from petlbench.method import QueryMethod
from petlbench.optim.loop import Epoch
from petlbench.records.schema import Record
from petlbench.remote.server.metrics import total
from petlbench.remote.server.service import Service
from petlbench.runs.execute import execute
from tests.remote.bodies import CPU
from tests.remote.processes import serving
from tests.words import resolve

BATCH = 16
TEST_IMAGES = 500
IMAGES, CONTEXTS, TEXTS = "images", "contexts", "texts"


class Attack(QueryMethod):
    """Asks about one batch in an honest way, and about ``asked`` further images in its own."""

    access = Access.SCORES
    asked: ClassVar[int] = BATCH
    calls: ClassVar[int] = 1

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        images = next(iter(data.train))[0]
        model.scores(images)
        self.attack(model, images, data)

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        raise NotImplementedError

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images)


class _Empty(Tensor):
    """Says that it holds nothing."""

    shape = property(lambda self: torch.Size((0, 3, 32, 32)))  # type: ignore[assignment]
    ndim = property(lambda self: 4)  # type: ignore[assignment]
    requires_grad = property(lambda self: True)  # type: ignore[assignment]

    def __len__(self) -> int:
        return 0

    def numel(self) -> int:
        return -(10**9)

    def size(self, *_: Any) -> Any:
        return 0

    def detach(self) -> Tensor:
        return self

    def split(self, *_: Any, **__: Any) -> Any:
        return (self,)


class _Answering(Tensor):
    """Answers for torch."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in ("__len__", "numel", "size"):
            return 0
        if name in ("split", "split_with_sizes"):
            return (args[0],)
        return super().__torch_function__(function, types, args, kwargs or {})


class _Mode(TorchFunctionMode):
    """Multiplies what is sent: every split of a tensor gives each part twenty times."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        return list(found) * 20 if getattr(function, "__name__", "") == "split" else found


class LengthZero(Attack):
    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        model.scores(images.as_subclass(_Empty))


class AnsweringForTorch(Attack):
    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        model.scores(images.as_subclass(_Answering))


class WithinAMode(Attack):
    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        with _Mode():
            model.scores(images)


class Expanded(Attack):
    asked = 5 * BATCH

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        model.scores(images[:1].expand(5 * BATCH, -1, -1, -1))


class ManyThreads(Attack):
    asked = 40 * 2

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        def ask() -> None:
            for _ in range(10):
                model.scores(images[:2])

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class ItsOwnNumbers(Attack):
    """Says of itself what it likes."""

    asked = 0

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        self.images_encoded = -7
        self.access = Access.WEIGHTS  # type: ignore[misc]
        model.class_names, model.input_size = (), 1


class Lazy(Attack):
    """What has no numbers in memory is refused, and nothing is sent."""

    asked = 0

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        nested = torch.nested.nested_tensor([images[0], images[1]], layout=torch.jagged)
        strange = (images.tolist(), images.numpy(), images.to("meta"), images.to_sparse(), nested, images.to(torch.complex64))
        for given in (*strange, images.long(), images > 0, None):
            with pytest.raises(AccessError, match="images must"):
                model.scores(given)  # type: ignore[arg-type]
        with pytest.raises(AccessError, match="images must"):
            torch.func.vmap(model.scores)(torch.stack([images, images]))
        for given in (images[0], images[..., :8], images.repeat(1, 1, 2, 2), images[:0]):
            with pytest.raises(ValueError, match="images must"):
                model.scores(given)


class OtherTickets(Attack):
    """The numbers near the one of its handle open nothing."""

    asked = 0

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        ticket = model.ticket
        for near in range(-3, 4):
            model.ticket = ticket + near
            if near:
                with pytest.raises(AccessError):
                    model.scores(images)


class ForgedUploads(Attack):
    """A handle of stored images that it has made up, with any count."""

    access = Access.CONTEXT

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        stored = model.upload(images)
        context = model.context[None]
        for count in (0, -(10**6)):
            assert model.context_scores(StoredImages(stored.digests, count), context).shape[1] == BATCH
        for digests in ((), ("0" * 64,), (0,), (*stored.digests, "1" * 64)):
            with pytest.raises(AccessError, match="not uploaded in this run"):
                model.context_scores(StoredImages(digests, 1), context)  # type: ignore[arg-type]


class InPredict(Attack):
    """Asks what it likes while validation images are looked at, as often as it likes."""

    asked = 0

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        for _ in range(3):
            data.log_epoch(Epoch(epoch=data.recipe.epochs - 1, loss=1.0, learning_rate=0.0))


class AfterAFailedLook(Attack):
    """Makes the look at validation images fail, in the hope that what follows is taken for a look."""

    is_failing = False

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        self.is_failing = True
        with pytest.raises(ZeroDivisionError):
            data.log_epoch(Epoch(epoch=data.recipe.epochs - 1, loss=1.0, learning_rate=0.0))
        self.is_failing = False
        model.scores(images)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        if self.is_failing:
            raise ZeroDivisionError
        return super().predict(model, images)


class LeftBehind(Attack):
    """A thread that goes on asking while test images are looked at."""

    asked = 0
    problems: ClassVar[list[BaseException]] = []

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        self.is_testing, self.has_asked = threading.Event(), threading.Event()

        def ask() -> None:
            self.is_testing.wait(60)
            try:
                model.scores(images)
            except BaseException as problem:
                self.problems.append(problem)
            self.has_asked.set()

        threading.Thread(target=ask, daemon=True).start()

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        self.is_testing.set()
        self.has_asked.wait(60)
        return super().predict(model, images)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Service]]:
    with serving(load_backbone_cached("mini_clip", None, CPU)[0]) as (url, service):
        yield url, service


Run = Callable[..., Record]


@pytest.fixture
def attacked(served: tuple[str, Service], plugin: Callable[..., type], tmp_path: Path) -> Run:
    """Run an attack against the server, and compare the sums of the record with the server's."""
    url, service = served
    names = (f"attack_{number}" for number in itertools.count())

    def counted() -> dict[str, float]:
        metrics = service.metrics
        return {IMAGES: total(metrics.images), CONTEXTS: total(metrics.contexts), TEXTS: total(metrics.texts)}

    def run(attack: type[Attack], *words: str) -> Record:
        name = next(names)
        plugin(name, attack)
        before = counted()
        remote = ("backbone=remote", f"url={url}", "threads=1", "seed=0", f"train.batch_size={BATCH}", f"out={tmp_path}")
        record, _ = execute(resolve([f"method={name}", "task=mini/digits", "protocol.shots=8", *remote, *words]))
        after = counted()
        told = {name: sum(getattr(phase, name) for phase in record.cost.queries.values()) for name in before}
        assert told == {name: after[name] - before[name] for name in before}
        return record

    return run


HONEST = [LengthZero, AnsweringForTorch, WithinAMode, Expanded, ManyThreads, ItsOwnNumbers, Lazy, OtherTickets, ForgedUploads]


@pytest.mark.parametrize("attack", HONEST)
def test_a_record_says_what_the_server_has_counted(attack: type[Attack], attacked: Run) -> None:
    record = attacked(attack)
    assert record.status == "ok", record.error
    assert record.cost.queries["train"].images == BATCH + attack.asked
    assert record.cost.queries["test"].images == TEST_IMAGES
    assert record.cost.queries["train"].bytes > 0 and record.cost.images_encoded == 0
    assert record.method.access == attack.access.name


def test_looks_at_validation_images_have_a_budget_of_their_own(attacked: Run) -> None:
    words = ("protocol.selection=best_val",)
    images = attacked(InPredict, *words).cost.queries["val"].images
    assert images > 0 and images % 3 == 0
    limited = attacked(InPredict, *words, f"budget.val.images={images // 3 + 1}")
    assert (limited.status, limited.cost.queries["val"].images) == ("budget", images // 3)
    assert "in val" in str(limited.error)


def test_after_a_look_that_failed_training_is_training(attacked: Run) -> None:
    record = attacked(AfterAFailedLook, "protocol.selection=best_val")
    assert record.status == "ok", record.error
    assert record.cost.queries["train"].images == 2 * BATCH and record.cost.queries["val"].images == 0


def test_a_thread_that_was_left_behind_is_refused(attacked: Run) -> None:
    record = attacked(LeftBehind)
    assert [type(problem) for problem in LeftBehind.problems] == [AccessError]
    assert record.cost.queries["train"].images == BATCH and record.cost.queries["test"].images == TEST_IMAGES


def test_a_test_that_the_budget_does_not_allow_is_refused_before_training(attacked: Run) -> None:
    record = attacked(ItsOwnNumbers, "budget.test.images=499")
    assert record.status == "failed" and "budget reached after 0 of 499 images in test" in str(record.error)
    assert record.cost.queries["train"].images == 0


class Winning(Attack):
    """Gives scores that say of every comparison that it holds."""

    asked = 0

    class Scores(Tensor):
        @classmethod
        def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if getattr(function, "__name__", "") in ("eq", "__eq__"):
                return torch.ones(len(args[0]), dtype=torch.bool)
            return super().__torch_function__(function, types, args, kwargs or {})

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        pass

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 10).as_subclass(self.Scores)


def test_scores_that_claim_to_be_right_are_measured(attacked: Run) -> None:
    record = attacked(Winning)
    assert record.metrics is not None and record.metrics.accuracy < 50


class Claiming(Attack):
    """Says what accuracy an epoch had."""

    class Told:
        epoch, loss, learning_rate = 0, 1.0, 0.1

        def _asdict(self) -> dict[str, float]:
            return {"epoch": 0, "loss": 1.0, "learning_rate": 0.1, "val_accuracy": 100.0}

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        data.log_epoch(self.Told())  # type: ignore[arg-type]


def test_an_epochs_accuracy_is_measured_and_not_told(attacked: Run) -> None:
    (epoch,) = attacked(Claiming).history
    assert epoch.val_accuracy is None


class Promoted(Attack):
    """Declares another rung once it runs."""

    asked = 0

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        type(self).access = self.access = Access.WEIGHTS  # type: ignore[misc]


def test_a_record_has_the_rung_that_was_granted(attacked: Run) -> None:
    assert attacked(Promoted).method.access == "SCORES"


class Relabelling(Attack):
    """Writes what it predicts over the labels of validation images."""

    asked = 0

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        data.val.labels.zero_()
        with pytest.raises(AttributeError):
            data.val.labels = torch.zeros(1)  # type: ignore[misc]
        data.log_epoch(Epoch(epoch=data.recipe.epochs - 1, loss=1.0, learning_rate=0.0))

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return torch.eye(10)[:1].expand(len(images), -1)


def test_validation_labels_are_not_a_methods_to_change(attacked: Run) -> None:
    (epoch,) = attacked(Relabelling, "protocol.selection=best_val").history
    assert epoch.val_accuracy is not None and epoch.val_accuracy < 50


class Encoding(Attack):
    """Encodes every test image with a model of its own."""

    asked = 0

    def build(self, model: QueryModel) -> None:
        self._encoder = [nn.Flatten()]

    def encoders(self) -> tuple[nn.Module, ...]:
        return tuple(self._encoder)

    def attack(self, model: QueryModel, images: Tensor, data: TrainingData) -> None:
        self.images_encoded = 0

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        self._encoder[0](images)
        return super().predict(model, images)


def test_images_through_a_methods_own_models_are_counted_by_the_harness(attacked: Run) -> None:
    assert attacked(Encoding).cost.images_encoded == TEST_IMAGES


def test_a_budget_of_training_holds_against_lengths_of_zero(attacked: Run) -> None:
    record = attacked(LengthZero, f"budget.images={BATCH}")
    assert (record.status, record.cost.queries["train"].images) == ("budget", BATCH)
    assert f"budget reached after {BATCH} of {BATCH} images" in str(record.error)
