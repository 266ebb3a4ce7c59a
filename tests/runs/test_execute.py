"""Execute one run from its configuration to its record: counters, model selection, and limits of a method's access."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor, nn

from petlbench import Access, GradientMethod, QueryMethod, QueryModel, TrainingData
from petlbench.analysis.validate import problems_of
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.evaluate import evaluate_checkpoint
from petlbench.checkpoints.file import read_checkpoint
from petlbench.data.batches import Batches
from petlbench.data.load import find_task
from petlbench.data.split import Split
from petlbench.data.store import TaskStore
from petlbench.data.transforms import Form
from petlbench.errors import AccessError, ConfigError
from petlbench.learners.scores import accuracy
from petlbench.learners.setting import open_task
from petlbench.optim.loop import Epoch
from petlbench.records.schema import Record, read_record
from petlbench.runs.execute import execute
from tests.object_graph import reachable_by_path
from tests.words import resolve

SHORT = ("train.epochs=2", "train.warmup_epochs=0", "threads=1")


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Record, Path]]:
    """Runs ``run("lora", "key=value")`` on mini/digits."""
    return lambda method, *words: execute(
        resolve([f"method={method}", "task=mini/digits", f"out={tmp_path}", *SHORT, *words]), reraise=True
    )


@pytest.mark.usefixtures("cache")
def test_a_linear_probe_forwards_every_image_once_and_the_second_run_decodes_none(run: Callable[..., tuple[Record, Path]]) -> None:
    costs = [run("linear", f"seed={seed}")[0].cost for seed in range(2)]
    assert [cost.images_decoded for cost in costs] == [1000, 0]
    for cost in costs:
        assert cost.images_forwarded == 400 + 500
        assert (cost.queries["train"].images, cost.queries["val"].images, cost.queries["test"].images) == (400, 0, 500)


@pytest.mark.usefixtures("cache")
def test_where_images_are_kept_changes_nothing_but_how_often_they_are_decoded(run: Callable[..., tuple[Record, Path]]) -> None:
    words = ("lora", "protocol.augment=crop + flip", "protocol.resize=36")
    streamed, stored = run(*words, "store_mb=0")[0], run(*words)[0]
    assert (stored.run_id, stored.predictions, stored.history) == (streamed.run_id, streamed.predictions, streamed.history)
    assert (stored.cost.images_decoded, streamed.cost.images_decoded) == (1000, 2 * 400 + 500)


def test_a_gradient_method_forwards_every_image_once_per_epoch(run: Callable[..., tuple[Record, Path]]) -> None:
    record, path = run("lora", "train.epochs=3")
    assert record.cost.images_forwarded == 3 * 400 + 500
    assert [epoch.epoch for epoch in record.history] == [0, 1, 2]
    assert problems_of(path) == [] and read_record(path) == record


def test_a_run_gives_the_same_numbers_whatever_the_process_did_before(run: Callable[..., tuple[Record, Path]]) -> None:
    """A bench of many runs in one process must equal the runs one by one; loading a backbone draws random numbers."""
    load_backbone_cached.cache_clear()
    first = run("linear")[0]
    run("lora", "seed=5", "train.epochs=1")
    second = run("linear")[0]
    assert (first.predictions, first.history) == (second.predictions, second.history)


def test_what_a_run_rounds_to_bf16_is_not_there_before_the_memory_of_the_next_is_measured(
    run: Callable[..., tuple[Record, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, _ = load_backbone_cached("mini_clip", None, torch.device("cpu"))
    held = []
    monkeypatch.setattr("petlbench.learners.cost.AddedMemory.__init__", lambda self, device: held.append(len(backbone._bf16_copies)))
    monkeypatch.setattr("petlbench.learners.cost.AddedMemory.mb", 0.0)
    monkeypatch.setattr("petlbench.learners.cost.AddedMemory.peak_mb", 0.0)
    for _ in range(2):
        run("bitfit", "precision=bf16", "train.epochs=1")
        assert backbone._bf16_copies
    assert held == [0, 0]


@pytest.mark.parametrize("method", ["linear", "lora"])
def test_another_seed_gives_other_numbers(run: Callable[..., tuple[Record, Path]], method: str) -> None:
    losses = [run(method, f"seed={seed}", "train.epochs=1")[0].history[0].loss for seed in (0, 1)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize("method", ["linear", "bitfit"])
def test_a_saved_checkpoint_evaluates_to_the_records_accuracy(run: Callable[..., tuple[Record, Path]], tmp_path: Path, method: str) -> None:
    record, _ = run(method, "save=true", "train.epochs=1")
    assert record.checkpoint is not None and record.metrics is not None
    found = evaluate_checkpoint(read_checkpoint(tmp_path / record.checkpoint), {"threads": 1})
    assert (found["accuracy"], found["samples"]) == (record.metrics.accuracy, 500)


def test_a_checkpoint_is_only_kept_when_asked_for(run: Callable[..., tuple[Record, Path]], tmp_path: Path) -> None:
    assert run("zero_shot")[0].checkpoint is None
    assert not (tmp_path / "checkpoints").exists()


def test_accuracy_is_exact() -> None:
    scores = torch.eye(3)[[0, 1, 2, 0, 0]]
    assert accuracy(scores, torch.tensor([0, 1, 2, 1, 2])) == 60.0


class Scripted(QueryMethod):
    """Is right about every fifth image in epoch 0, about all in epochs 1 and 2, about none in epoch 3: labels are read from the backbone's
    zero-shot answer, so no label is needed."""

    access = Access.SCORES
    rights = (5, 1, 1, 0)

    def build(self, model: QueryModel) -> None:
        self.register_buffer("epoch", torch.tensor(-1))

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        for epoch in range(4):
            self.epoch: Tensor = torch.tensor(epoch)
            data.log_epoch(Epoch(epoch=epoch, loss=1.0, learning_rate=0.1))

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        scores = model.scores(images)
        every = self.rights[int(self.epoch)]
        wrong = [index for index in range(len(scores)) if not every or index % every]
        scores[wrong] = -scores[wrong]
        return scores


@pytest.fixture
def scripted(plugin: Callable[..., type]) -> str:
    plugin("scripted", Scripted)
    return "scripted"


def test_the_last_epoch_counts_unless_another_rule_is_set(run: Callable[..., tuple[Record, Path]], scripted: str) -> None:
    last, best = run(scripted)[0], run(scripted, "protocol.selection=best_val")[0]
    assert last.metrics is not None and best.metrics is not None
    assert last.metrics.accuracy < 40 < best.metrics.accuracy


def test_best_val_reports_the_first_best_epoch_of_the_validation_split(
    run: Callable[..., tuple[Record, Path]], scripted: str, tmp_path: Path
) -> None:
    record, _ = run(scripted, "protocol.selection=best_val", "save=true")
    assert record.metrics is not None and record.checkpoint is not None
    reached = [epoch.val_accuracy for epoch in record.history]
    assert reached[1] == reached[2] == record.metrics.val_accuracy == max(filter(None, reached))
    assert read_checkpoint(tmp_path / record.checkpoint).state["epoch"] == 1
    assert (record.cost.queries["val"].images, record.cost.queries["test"].images) == (4 * 100, 500)


def test_oracle_test_looks_at_the_test_split_and_says_so(run: Callable[..., tuple[Record, Path]], scripted: str) -> None:
    record, path = run(scripted, "protocol.selection=oracle_test", "train.epochs=4")
    assert record.metrics is not None and record.metrics.val_accuracy is None
    assert record.selection == "oracle_test"
    assert max(epoch.test_accuracy or 0 for epoch in record.history) == record.metrics.accuracy
    assert record.cost.queries["test"].images == 5 * 500
    assert problems_of(path) == []


@pytest.mark.parametrize(("every", "tail", "expected"), [(1, 1, [0, 1, 2, 3]), (3, 1, [0, 3]), (2, 1, [0, 2, 3]), (10, 2, [0, 2, 3])])
def test_a_selection_rule_looks_only_at_every_so_many_epochs_and_the_last(
    run: Callable[..., tuple[Record, Path]], scripted: str, every: int, tail: int, expected: list[int]
) -> None:
    words = ("protocol.selection=best_val", f"protocol.select_every={every}", f"protocol.select_tail={tail}", "train.epochs=4")
    record, _ = run(scripted, *words)
    assert [epoch.epoch for epoch in record.history if epoch.val_accuracy is not None] == expected
    assert [epoch.epoch for epoch in record.history] == [0, 1, 2, 3]
    assert record.cost.queries["val"].images == len(expected) * 100


class Steady(QueryMethod):
    """Learns nothing in any number of epochs."""

    access = Access.SCORES

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        for epoch in range(data.recipe.epochs):
            data.log_epoch(Epoch(epoch=epoch, loss=1.0, learning_rate=0.1))

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return torch.zeros(len(images), len(model.class_names))


@pytest.mark.parametrize(
    ("recipe", "expected"), [("noah", [*range(0, 100, 10), 99]), ("spt_release", [*range(0, 90, 10), *range(90, 100)]), ("spt", [])]
)
def test_a_recipe_looks_at_the_test_split_when_the_released_code_does(
    run: Callable[..., tuple[Record, Path]], plugin: Callable[..., type], recipe: str, expected: list[int]
) -> None:
    plugin("steady", Steady)
    record, _ = run("steady", f"recipe={recipe}", "train.epochs=100")
    assert [epoch.epoch for epoch in record.history if epoch.test_accuracy is not None] == expected


class Snoop(QueryMethod):
    """Keeps references to its arguments."""

    access = Access.FEATURES
    given: TrainingData
    found: list[tuple[str, object]]

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        type(self).given = data
        type(self).found = list(reachable_by_path([self, model, data]))

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 10)


@pytest.fixture
def snoop(plugin: Callable[..., type]) -> Iterator[str]:
    plugin("snoop", Snoop)
    yield "snoop"
    del Snoop.given, Snoop.found


@pytest.mark.parametrize("selection", ["last", "best_val", "oracle_test"])
def test_a_black_box_method_can_reach_neither_the_model_nor_the_test_split(
    run: Callable[..., tuple[Record, Path]], snoop: str, selection: str
) -> None:
    run(snoop, f"protocol.selection={selection}")
    assert not [path for path, found in Snoop.found if isinstance(found, (nn.Parameter, Backbone, Split))]
    assert {id(found) for _, found in Snoop.found if isinstance(found, Batches)} == {id(Snoop.given.train), id(Snoop.given.val)}
    test = TaskStore(find_task("mini/digits"), limit_mb=100).open("test", Form("squash", 32, cut=32))
    test_labels, test_images = torch.from_numpy(test.labels), test.images
    arrays = [path for path, found in Snoop.found if isinstance(found, np.ndarray) and found.shape == test_images.shape]
    tensors = [path for path, found in Snoop.found if isinstance(found, Tensor) and found.shape == test_labels.shape]
    assert not arrays and not tensors


def test_what_a_method_reports_after_its_run_is_not_taken_down(run: Callable[..., tuple[Record, Path]], snoop: str) -> None:
    run(snoop)
    with pytest.raises(AccessError, match="while the method trains"):
        Snoop.given.log_epoch(Epoch(epoch=0, loss=0.0, learning_rate=0.0))


class Greedy(QueryMethod):
    """Queries until it is stopped."""

    access = Access.SCORES

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        while True:
            for images, _ in data.train:
                model.scores(images)

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images)


def test_a_run_that_reaches_its_budget_is_evaluated_and_says_so(
    run: Callable[..., tuple[Record, Path]], plugin: Callable[..., type]
) -> None:
    plugin("greedy", Greedy)
    record, path = run("greedy", "budget.images=100", "train.batch_size=32")
    assert (record.status, record.error) == ("budget", "budget reached after 96 of 100 images")
    assert record.cost.queries["train"].images == 96
    assert record.cost.images_forwarded == 96 + 500
    assert record.metrics is not None and problems_of(path) == []


class Vandal(GradientMethod):
    """Writes to the frozen weights that all runs share."""

    def adapt(self, vit: Any) -> None:
        vit.cls_token.data.add_(1.0)


def test_a_method_that_changes_the_shared_backbone_fails_and_harms_no_later_run(
    run: Callable[..., tuple[Record, Path]], plugin: Callable[..., type]
) -> None:
    plugin("vandal", Vandal)
    before = run("zero_shot")[0].predictions
    with pytest.raises(RuntimeError, match="method vandal changed the shared backbone"):
        run("vandal", "train.epochs=1")
    assert run("zero_shot")[0].predictions == before


def test_the_record_says_what_was_run_on_what(run: Callable[..., tuple[Record, Path]]) -> None:
    record, path = run("vpt_shallow", "train.epochs=1", "method.prompt_length=3")
    assert (record.method.name, record.method.plugin, record.method.access) == ("vpt_shallow", "vpt", "WEIGHTS")
    assert record.method.config["prompt_length"] == 3 and record.hyperparameters == "suite mini"
    assert record.parameters is not None
    assert (record.parameters.trainable, record.parameters.head) == (3 * 128, 128 * 10 + 10)
    assert record.parameters.stored_bytes == 4 * (3 * 128 + 128 * 10 + 10)
    assert set(record.split_hashes) == {"train", "val", "test"}
    assert (record.suite, record.task, record.class_count) == ("mini", "mini/digits", 10)
    assert path.relative_to(path.parents[3]).as_posix().startswith("records/mini/digits/vpt_shallow-mini_clip-s0-")


def test_a_method_that_a_remote_model_cannot_serve_is_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    words = ["method=lora", "task=mini/digits", "backbone=remote", "url=http://127.0.0.1:1", f"out={tmp_path}"]
    with pytest.raises(AccessError, match=r"method lora needs access WEIGHTS; a remote model gives SCORES, CONTEXT and FEATURES"):
        execute(resolve(words))
    assert not list(tmp_path.iterdir())


def test_an_address_without_a_remote_backbone_is_refused_and_the_other_way_round(tmp_path: Path) -> None:
    for words in (["backbone=remote"], ["url=http://127.0.0.1:1"]):
        with pytest.raises(ConfigError, match="backbone=remote and url belong together"):
            execute(resolve(["method=zero_shot", "task=mini/digits", f"out={tmp_path}", *words]))
    assert not list(tmp_path.iterdir())


def test_what_no_api_gives_is_refused_before_anything_is_paid(tmp_path: Path) -> None:
    words = ["method=craft", "task=mini/digits", "method.head_input=released_unnormalised", "backbone=remote", "url=http://127.0.0.1:1"]
    with pytest.raises(AccessError, match=r"method craft needs a model in this process: head_input=released_unnormalised"):
        execute(resolve([*words, f"out={tmp_path}"]))


def test_a_run_keeps_to_its_threads_in_numpy_as_well(run: Callable[..., tuple[Record, Path]], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(
        "petlbench.runs.execute.open_task",
        lambda *parts: seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas") or open_task(*parts),
    )
    run("zero_shot", "threads=1")
    assert seen and set(seen) == {1}
