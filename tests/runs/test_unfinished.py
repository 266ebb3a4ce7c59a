"""A run that is interrupted at any moment goes on, and gives what it would have given."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petlbench import Access, QueryMethod, QueryModel, TrainingData
from petlbench.config.every import Every, parse_every
from petlbench.errors import ConfigError, RecordError
from petlbench.optim.loop import Epoch
from petlbench.records.schema import Record
from petlbench.runs import unfinished
from petlbench.runs.execute import execute, state_path
from petlbench.runs.kept_file import packed_state, read_state
from petlbench.runs.unfinished import Unfinished
from tests.words import resolve

WORDS = ("task=mini/digits", "threads=1", "save=true", "protocol.shots=2", "train.epochs=3", "train.warmup_epochs=0", "train.batch_size=5")
# One per learner and optimiser, on 20 images in 4 batches
CASES: dict[str, tuple[str, ...]] = {
    "lora": (),
    "lora of sgd, augmented": ("train.optimizer=sgd", "protocol.augment=crop + flip", "protocol.resize=36"),
    "lora of summed gradients": ("train.accumulate=3", "train.schedule_step=step"),
    "lora with dropout and the best epoch": ("method.dropout=0.5", "train.drop_path=0.1", "protocol.selection=best_val"),
    "partial with the best epoch": ("protocol.selection=best_val",),  # the blocks below are computed once
    "spt": ("method.unit=1000",),
    "linear": (),
    "blackvip": ("method.spsa.repeats=2",),
    "blackvip augmented": ("method.spsa.repeats=2", "protocol.augment=crop + flip", "protocol.resize=36"),
    "vp_spsa": ("method.spsa.repeats=2",),
    "bar": ("method.rgf.directions=2",),
    "craft": ("method.population=4", "method.budget=12", "method.intrinsic_dim=8"),
    "craft augmented": ("method.population=4", "method.budget=12", "protocol.augment=crop + flip", "protocol.resize=36"),
    "bbt": ("method.population=4", "method.budget=12"),
    "vp": (),
    "vp of random places": ("method.prompt=random_patch",),
    "pgn": (),
}
WITH_CURVE = ("vp_spsa", "blackvip")
FAST = ("lora", "vp_spsa", "craft")
IN_CI = ("lora", "blackvip", "craft", "pgn")  # of those that kill a process
SLOW, LONG = pytest.mark.slow, (pytest.mark.slow, pytest.mark.long)
Outcome = tuple[Record, dict[str, Tensor]]


def words_of(case: str, out: Path, *more: str) -> list[str]:
    curve = f"curve={str(case in WITH_CURVE).lower()}"
    return [f"method={case.split(maxsplit=1)[0]}", *WORDS, *CASES[case], curve, f"out={out}", *more]


def outcome(words: list[str]) -> Outcome:
    """Run to the end; the record and what was learned."""
    record, path = execute(resolve(words), reraise=True)
    assert record.checkpoint is not None
    return record, load_file(path.parents[3] / record.checkpoint)


def assert_same(found: Outcome, expected: Outcome) -> None:
    (record, learned), (whole, all_learned) = found, expected
    assert record.predictions is not None and whole.predictions is not None
    assert record.predictions.sha256 == whole.predictions.sha256
    assert (record.status, record.metrics, record.history, record.curve) == (whole.status, whole.metrics, whole.history, whole.curve)
    assert record.cost.queries == whole.cost.queries
    assert record.cost.images_encoded == whole.cost.images_encoded
    if record.method.name != "spt":  # whose ranking is computed by the first run of a machine, and cached
        assert record.cost.images_forwarded == whole.cost.images_forwarded
    assert learned.keys() == all_learned.keys()
    assert all(torch.equal(learned[name], tensor) for name, tensor in all_learned.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outcome]:
    """The outcome without an interruption, computed once."""
    known: dict[str, Outcome] = {}

    def of(case: str) -> Outcome:
        if case not in known:
            known[case] = outcome(words_of(case, tmp_path_factory.mktemp("whole"), "checkpoint_every=null"))
        return known[case]

    return of


def leftovers(out: Path) -> list[Path]:
    return list(out.rglob("*unfinished*"))


def killed(moment: str, number: int, words: list[str]) -> None:
    """Run in a process that is killed at a moment (``tests.runs.killed``)."""
    command = [sys.executable, "-m", "tests.runs.killed", moment, str(number), *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize(
    "case", [case if case == "vp_spsa" else pytest.param(case, marks=SLOW if case in IN_CI else LONG) for case in CASES]
)
def test_a_killed_process_has_lost_nothing(case: str, whole: Callable[[str], Outcome], tmp_path: Path) -> None:
    """After 12 steps at most, or as many passes of a method without batches."""
    draw = random.Random(case)
    steps = draw.randint(3, 10) if case.split(maxsplit=1)[0] not in ("craft", "bbt", "spt") else 3
    words = words_of(case, tmp_path, "checkpoint_every=2steps")
    killed("step", steps, words)
    assert leftovers(tmp_path) and not list(tmp_path.rglob("*.json"))
    found = outcome(words)
    assert found[0].cost.resumed == 1
    assert_same(found, whole(case))
    assert not leftovers(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("write", 1),
        ("test", 2),
        ("record", 1),
        *(pytest.param(*moment, marks=LONG) for moment in (("write", 3), ("rename", 2), ("section", 2), ("test", 1), ("test", 3))),
    ],
)
def test_a_process_that_is_killed_while_it_writes_tests_or_records_has_lost_nothing(
    moment: str, number: int, whole: Callable[[str], Outcome], tmp_path: Path
) -> None:
    """The test of the end is the first, those of the curve follow."""
    words = words_of("vp_spsa", tmp_path, "checkpoint_every=1steps")
    killed(moment, number, words)
    assert_same(outcome(words), whole("vp_spsa"))
    assert not leftovers(tmp_path)


def interrupted(monkeypatch: pytest.MonkeyPatch, words: list[str], steps: int, owner: Any = Unfinished, name: str = "offer") -> None:
    """Interrupt a run in this process when something is called for the nth time, after it was done."""
    former, calls = getattr(owner, name), [0]

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        result = former(*arguments, **named)
        if calls[0] == steps:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(KeyboardInterrupt):
            execute(resolve(words))


@pytest.mark.parametrize("case", [case if case in FAST else pytest.param(case, marks=LONG) for case in CASES])
def test_an_interrupted_run_goes_on_twice(
    case: str, whole: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = words_of(case, tmp_path, "checkpoint_every=1steps")
    for steps in (2, 1):
        interrupted(monkeypatch, words, steps)
    torch.manual_seed(99)  # what a process did before changes nothing
    found = outcome(words)
    assert found[0].cost.resumed == 2
    assert_same(found, whole(case))


def test_what_was_trained_is_not_trained_again_when_the_test_is_interrupted(
    whole: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = words_of("vp_spsa", tmp_path, "checkpoint_every=1steps")
    interrupted(monkeypatch, words, 2, sys.modules["petlbench.runs.execute"], "mask_classes")  # in the first point of the curve
    monkeypatch.setattr("petlbench.learners.query.QueryLearner.fit", _refuse)
    found = outcome(words)
    assert_same(found, whole("vp_spsa"))
    assert len(found[0].curve) > 2


def _refuse(*_: object) -> None:
    raise AssertionError("this was to be done no more")


def test_seconds_are_the_sum_over_the_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = words_of("linear", tmp_path, "checkpoint_every=1steps")
    interrupted(monkeypatch, words, 3)
    path = state_path(resolve(words))
    identity, state = read_state(path)
    state["parts"]["clock"] |= {"train": 1000.0, "total": 2000.0}
    path.write_bytes(packed_state(identity, state))
    cost = outcome(words)[0].cost
    assert 1000 < cost.train_seconds < 2000 < cost.total_seconds


def test_a_run_that_is_shorter_than_the_interval_copies_and_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("unfinished.state_of", "unfinished.packed_state", "unfinished.write_atomically"):
        monkeypatch.setattr(f"petlbench.runs.{name}", _refuse)
    monkeypatch.setattr("petlbench.optim.steps.state_of", _refuse)
    for case in ("lora", "bar"):
        assert outcome(words_of(case, tmp_path, "checkpoint_every=1h"))[0].cost.resumed == 0


def test_the_time_between_two_states_is_the_interval_or_twenty_times_what_writing_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = [0.0]
    monkeypatch.setattr(unfinished.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(unfinished, "write_atomically", lambda *_: now.__setitem__(0, now[0] + 10))
    kept = Unfinished(tmp_path / "state", dict, Every(seconds=60))
    written = []
    for _ in range(1000):
        now[0] += 1
        before = now[0]
        kept.offer(dict, 1)
        if now[0] > before:
            written.append(before)
    assert written[:4] == [60, 270, 480, 690]


# What does not fit is refused by name


IDENTITY = {
    "code": "a1b2",
    "settings": "c3d4",
    "weights of the backbone": "e5f6",
    "data": "mock-1",
    "version of torch": "2",
    "number of threads": "1",
}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The state of a run that was interrupted in its third step."""
    path = tmp_path / "run.unfinished.safetensors"
    run = Unfinished(path, lambda: IDENTITY, Every(steps=3))
    run.begin({"solution": torch.tensor([1.5, 2.5])})
    for step in range(3):
        run.offer(lambda step=step: {"step": step}, 1)  # type: ignore[misc]
    return path


def found_by(path: Path, identity: dict[str, str]) -> int:
    """Let a run go on from a state; how often it has gone on."""
    solution, loaded = torch.zeros(2), list[Any]()
    run = Unfinished(path, lambda: identity, Every(steps=3))
    run.begin({"solution": solution})
    run.enter(loaded.append)
    assert (solution.tolist(), loaded) == (([1.5, 2.5], [{"step": 2}]) if run.resumed else ([0.0, 0.0], []))
    return run.resumed


def test_a_state_of_the_same_is_found(kept: Path) -> None:
    assert found_by(kept, IDENTITY) == 1


@pytest.mark.parametrize("what", IDENTITY)
def test_a_state_of_something_else_is_refused_by_name(what: str, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert found_by(kept, IDENTITY | {what: "other"}) == 0
    assert caplog.messages == [f"{kept} was kept with other {what} ({IDENTITY[what]}, now other), so the run starts over"]


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _flipped(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def _other_number(content: bytes) -> bytes:
    return content.replace(b'[\\"step\\", 2]', b'[\\"step\\", 3]', 1)


@pytest.mark.parametrize("damage", [_cut, _flipped, _other_number, lambda _: b"", lambda _: b"{}" * 9])
def test_a_damaged_state_is_refused(damage: Callable[[bytes], bytes], kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = kept.read_bytes()
    assert damage(content) != content
    kept.write_bytes(damage(content))
    assert found_by(kept, IDENTITY) == 0
    (line,) = caplog.messages
    assert line.startswith("the state of an interrupted run cannot be read, so the run starts over") and kept.name in line


def test_a_state_that_a_method_cannot_read_is_deleted_and_the_next_rerun_starts_over(kept: Path) -> None:
    run = Unfinished(kept, lambda: IDENTITY, Every(steps=3))
    run.begin({"solution": torch.zeros(2)})
    with pytest.raises(
        RecordError, match=rf"{kept.name}: the method cannot go on from its state \(KeyError: .*\), which was deleted; run it again"
    ):
        run.enter(lambda state: state["vector"])
    assert found_by(kept, IDENTITY) == 0


def test_a_run_whose_state_is_refused_starts_over(
    whole: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = words_of("vp_spsa", tmp_path, "checkpoint_every=1steps")
    interrupted(monkeypatch, words, 3)
    path = state_path(resolve(words))
    identity, state = read_state(path)
    assert {*IDENTITY, "device", "number format", "curve"} <= identity.keys()
    path.write_bytes(packed_state(identity | {"code": "before"}, state))
    found = outcome(words)
    assert found[0].cost.resumed == 0
    assert_same(found, whole("vp_spsa"))
    assert any("was kept with other code (before, now " in line for line in caplog.messages)


class Unaware(QueryMethod):
    """Trains in a loop of its own."""

    access = Access.SCORES

    def build(self, model: QueryModel) -> None:
        self.shift = nn.Parameter(torch.zeros(len(model.class_names)))

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        for epoch in range(data.recipe.epochs):
            for images, labels in data.train:
                nn.functional.cross_entropy(model.scores(images) + self.shift, labels).backward()
            with torch.no_grad():
                self.shift -= 0.1 * self.shift.grad
            data.log_epoch(Epoch(epoch=epoch, loss=1.0, learning_rate=0.1))

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        return model.scores(images) + self.shift


def test_a_method_that_does_not_take_part_starts_over_and_the_log_says_so_once(
    plugin: Callable[..., type], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plugin("unaware", Unaware)
    words = ["method=unaware", *WORDS, "curve=false"]
    expected = outcome([*words, f"out={tmp_path / 'whole'}", "checkpoint_every=null"])
    assert not caplog.messages
    words += [f"out={tmp_path}", "checkpoint_every=1steps"]
    interrupted(monkeypatch, words, 2, sys.modules["petlbench.learners.selection"].Selection, "evaluate")
    found = outcome(words)
    assert found[0].cost.resumed == 0
    assert_same(found, expected)
    assert caplog.messages == ["method unaware does not use data.steps: when it is interrupted, it starts over"]


# The setting


@pytest.mark.parametrize(
    ("text", "every"),
    [("60s", Every(60)), ("5min", Every(300)), ("2 h", Every(7200)), ("100steps", Every(steps=100)), ("1s", Every(1))],
)
def test_the_interval_is_a_time_or_a_number_of_steps(text: str, every: Every) -> None:
    assert parse_every(text) == every


@pytest.mark.parametrize("text", ["60", "0s", "-1s", "1.5h", "steps", "100 s teps", "1d", "60S", "true"])
def test_another_interval_is_one_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint_every must be a time such as 60s, 5min or 1h, a number of steps such as 100steps"):
        resolve(["method=lora", "task=mini/digits", f"checkpoint_every={text}"])


def test_the_interval_is_no_part_of_the_id() -> None:
    ids = {
        resolve(["method=lora", "task=mini/digits", *more]).run_id for more in ([], ["checkpoint_every=null"], ["checkpoint_every=7steps"])
    }
    assert len(ids) == 1


# The file


def test_a_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    state = {
        "step": torch.tensor(3),
        "shared": [shared, shared[:2], shared.view(2, 3).T],
        "half": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.empty(0, 2),
        1: {"betas": (0.9, 0.999), "none": None, "flag": True, "text": "ä\n"},
        "float": 0.1 + 0.2,
    }
    path = tmp_path / "state"
    path.write_bytes(packed_state({"code": "x"}, state))
    identity, found = read_state(path)
    assert identity == {"code": "x"} and list(found) == list(state)
    for name in ("step", "half", "empty"):
        assert found[name].dtype == state[name].dtype and torch.equal(found[name], state[name])  # type: ignore[index]
    assert all(torch.equal(one, other) for one, other in zip(found["shared"], state["shared"], strict=True))  # type: ignore[arg-type]
    assert found[1] == state[1] and found["float"] == state["float"]


def test_what_is_no_plain_value_is_refused() -> None:
    with pytest.raises(TypeError, match="not object"):
        packed_state({}, {"a": object()})


def test_a_pickle_is_no_state(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "state")
    with pytest.raises(RecordError):
        read_state(tmp_path / "state")
