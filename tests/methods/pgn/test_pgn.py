"""PGN as a run opens it: trained parameters, queries, heads, and released weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.traits import reason_against
from petlbench.config.settings import QueryConfig
from petlbench.errors import CheckpointError, ConfigError
from petlbench.methods.pgn import PGN, PGNConfig, own_classes, release_file
from petlbench.methods.pgn.generator import Generator, ResNet10
from petlbench.testing.mocks import CLASSES, SIZE, WIDTH, tiny_backbone
from tests.methods.asking import TASK, asking
from tests.near import assert_near
from tests.words import resolve

CPU = torch.device("cpu")
IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
SMALL = ("method=pgn", "method.channels=4", "method.groups=2", "method.library_size=6", "method.prompts=3")


@contextmanager
def opened(config: PGNConfig, with_text: bool = True) -> Iterator[tuple[PGN, QueryModel]]:
    method, names = PGN(config), tuple("abc")
    texts = ClassTexts(tuple((name,) for name in names))
    with grant(Access.GRADIENTS, tiny_backbone(with_text=with_text).endpoint(CPU), names, texts, Meter(), QueryConfig()) as model:
        method.build(model)
        yield method, model


def small(**settings: object) -> PGNConfig:
    return PGNConfig(**{"channels": 4, "groups": 2, "library_size": 6, "prompts": 3, **settings})  # type: ignore[arg-type]


def test_generator_and_library_are_all_that_is_learned() -> None:
    stem, head = 27 * 4 + 8, 8 * 18 + 18
    first, second = 2 * (36 * 4 + 8), (36 * 8 + 16) + (72 * 8 + 16) + (4 * 8 + 8)
    with asking(*SMALL) as run:
        assert run.learner.parameter_counts() == (stem + first + second + head + 6 * WIDTH, 0)


def test_a_model_without_texts_gets_a_linear_head() -> None:
    with opened(small(), with_text=False) as (method, model):
        assert method.predict(model, IMAGES).shape == (4, CLASSES)
        assert sum(p.numel() for name, p in method.named_parameters() if name.startswith("head.")) == CLASSES * (WIDTH + 1)


def test_a_linear_head_can_be_asked_for_where_there_are_texts() -> None:
    with opened(small(head="linear")) as (method, _):
        assert method.head is not None


def test_text_scores_of_a_model_without_texts_are_refused() -> None:
    traits = tiny_backbone(with_text=False).traits
    assert reason_against(PGN(small(head="auto")), traits, QueryConfig()) is None
    assert "tiny has no text tower" in str(reason_against(PGN(small(head="text")), traits, QueryConfig()))


def test_training_lowers_the_loss() -> None:
    with asking(*SMALL, "train.epochs=15") as run:
        run.fit()
    assert run.history[-1].loss < 0.8 * run.history[0].loss


def test_a_step_asks_once_about_every_image() -> None:
    with asking(*SMALL) as run:
        run.fit()
    counts = run.meter.counts["train"]
    assert (counts["images"], counts["calls"]) == (2 * 36, 2 * 3)
    texts = sum(len(caption) for captions in TASK.spec.prompts() for caption in captions)
    assert counts["bytes"] == texts + 4 * 2 * 36 * (3 * SIZE * SIZE + 3 * WIDTH)


def test_in_their_own_label_space_only_classes_of_the_image_s_task_compete() -> None:
    scores = own_classes((0, 0, 1))(torch.zeros(2, 3), torch.tensor([1, 2]))
    assert scores.tolist() == [[0, 0, -torch.inf], [-torch.inf, -torch.inf, 0]]


@pytest.mark.parametrize(("space", "is_zero"), [("own", True), ("union", False)])
def test_the_loss_is_of_the_classes_that_the_label_space_names(space: str, is_zero: bool) -> None:
    with asking(*SMALL, f"method.label_space={space}") as run:
        run.fit(part_of_class=tuple(range(CLASSES)))  # every class a task of its own: nothing competes with it
    assert (run.history[0].loss == 0) is is_zero


def test_the_settings_of_the_generator_are_those_of_the_method() -> None:
    with opened(small(mixing="sigmoid", resolution=8, blocks_per_group=2, max_pool=False)) as (method, _):
        generator = method.prompter
        assert isinstance(generator, Generator) and isinstance(generator.network, ResNet10)
        assert (generator.mixing, generator.resolution) == ("sigmoid", 8)
        assert (len(generator.network.blocks), len(generator.network.input_net)) == (4, 3)
    with opened(small(network="resnet18")) as (method, _):
        assert isinstance(method.prompter, Generator)
        assert (method.prompter.resolution, type(method.prompter.network).__name__) == (SIZE, "ResNet")


@pytest.mark.parametrize(
    "words", [(), ("method.prompt_mode=iip",), ("method.rank=2",), ("method.head=linear",), ("method.mixing=sigmoid",)]
)
def test_what_it_learned_can_be_loaded(words: tuple[str, ...]) -> None:
    with asking(*SMALL, *words) as run, asking(*SMALL, *words, "seed=1") as fresh:
        run.fit()
        assert not torch.equal(fresh.predict(), run.predict())
        fresh.learner.load_state(run.learner.state())
        assert torch.equal(fresh.predict(), run.predict())


def test_what_is_loaded_is_deployed_with_the_statistics_of_training() -> None:
    with asking(*SMALL) as run, asking(*SMALL, "seed=1") as fresh:
        run.fit()
        fresh.learner.load_state(run.learner.state())
        trained, loaded = run.learner.method.deployable(), fresh.learner.method.deployable()
        assert trained is not None and loaded is not None
        assert torch.equal(loaded.coefficients(IMAGES), trained.coefficients(IMAGES))


def test_fixed_prompts_are_k_vectors() -> None:
    with asking(*SMALL, "method.prompt_mode=iip") as run:
        assert run.learner.parameter_counts() == (3 * WIDTH, 0)


def test_the_order_of_prompts_changes_nothing() -> None:
    with opened(small()) as (method, model):
        prompts = method.eval().prompts(IMAGES)
        assert_near(model.scores(IMAGES, prompts.flip(1)), model.scores(IMAGES, prompts))


def released(tmp_path: Path, changes: dict[str, Tensor | None] | None = None) -> Path:
    """A file in the layout of the release, with the sizes of ``small``."""
    with opened(small()) as (method, _):
        state = {
            name: tensor.detach() + (0.1 if tensor.is_floating_point() else 0)
            for name, tensor in release_file.named(method.prompter).items()
        }
    for name, tensor in (changes or {}).items():
        state.pop(name, None)
        state |= {} if tensor is None else {name: tensor}
    path = tmp_path / "clip_cifar100.pt"
    torch.save(state, path)
    return path


def test_released_weights_are_evaluated_as_they_are(tmp_path: Path) -> None:
    path = released(tmp_path)
    with asking(*SMALL, f"method.checkpoint={path}") as run:
        run.fit()
        after = run.learner.state()
    assert run.history == [] and run.meter.counts["train"]["images"] == 0
    stored = torch.load(path, weights_only=True)
    assert torch.equal(after["prompter.tokens.vectors"], stored["tl_vectors"])
    assert torch.equal(after["prompter.network.blocks.1.downsample.bias"], stored["model.blocks.1.downsample.bias"])
    assert torch.equal(after["prompter.network.input_net.1.running_mean"], stored["model.input_net.1.running_mean"])


def test_what_was_saved_of_released_weights_does_without_their_file(tmp_path: Path) -> None:
    path = released(tmp_path)
    words = (*SMALL, f"method.checkpoint={path}")
    with asking(*words) as run:
        run.fit()
        state, expected = run.learner.state(), run.predict()
    path.unlink()
    with asking(*words) as fresh:
        fresh.learner.load_state(state)
        assert torch.equal(fresh.predict(), expected)


def test_a_released_file_has_the_names_of_the_release(tmp_path: Path) -> None:
    names = torch.load(released(tmp_path), weights_only=True).keys()
    assert {name.partition(".")[0] for name in names} == {"tl_vectors", "model"}
    assert {".".join(name.split(".")[1:3]) for name in names} >= {"input_net.0", "input_net.1", "blocks.0", "output_net.2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tl_vectors": None}, r"clip_cifar100\.pt: the checkpoint lacks tl_vectors"),
        (
            {"tl_vectors": torch.zeros(7, WIDTH)},
            r"tl_vectors has shape \(7, 32\) in the checkpoint, expected \(6, 32\); the sizes in method",
        ),
        ({"head.weight": torch.zeros(1)}, r"has unexpected head\.weight"),
    ],
)
def test_a_released_file_that_does_not_fit_is_refused_by_name(tmp_path: Path, changes: dict[str, Tensor | None], message: str) -> None:
    path = released(tmp_path, changes)
    with asking(*SMALL, f"method.checkpoint={path}") as run, pytest.raises(CheckpointError, match=message):
        run.fit()


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no")
    for name, message in (("broken.pt", "not a readable weight file"), ("missing.pt", "no such file")):
        with asking(*SMALL, f"method.checkpoint={tmp_path / name}") as run, pytest.raises(CheckpointError, match=message):
            run.fit()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("prompts=0", r"method\.prompts must be an int >= 1, got 0"),
        ("rank=0", r"method\.rank must be an int >= 1 or null, got 0"),
        ("mixing=max", r"method\.mixing must be one of softmax, sigmoid"),
    ],
)
def test_a_wrong_setting_is_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(["method=pgn", "task=folder:none", f"method.{word}"])


def test_a_factorised_library_is_refused_beside_released_weights() -> None:
    with pytest.raises(ConfigError, match=r"method\.rank must be null with a checkpoint"):
        resolve(["method=pgn", "task=folder:none", "method.checkpoint=x.pt", "method.rank=2"])


@pytest.mark.parametrize(("head", "with_text"), [("linear", True), ("auto", False)])
def test_released_weights_are_refused_where_a_linear_head_would_be_needed(head: str, with_text: bool) -> None:
    with pytest.raises(ConfigError, match="released files hold no linear head"), opened(small(checkpoint="x.pt", head=head), with_text):
        pass
