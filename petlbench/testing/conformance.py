"""The checks, as a class of pytest tests over one method name."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import json
import random
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.checkpoints.file import packed_checkpoint, read_checkpoint
from petlbench.cli.words import parse_words
from petlbench.config.every import Every
from petlbench.config.resolve import RunConfig, load_method, resolve, restore
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.load import Task
from petlbench.learners import PLAN, GradientLearner, QueryLearner, open_learner
from petlbench.learners.setting import open_backbone, open_task
from petlbench.method import GradientMethod, Method, QueryMethod
from petlbench.optim.loop import Epoch
from petlbench.optim.steps import State, Steps
from petlbench.remote.client import RemoteBackbone
from petlbench.runs.unfinished import GlobalGenerators, Unfinished
from petlbench.testing.mocks import mock_task, tiny_backbone
from petlbench.testing.reach import reachable

CPU = torch.device("cpu")
KEPT_EVERY = 2  # steps
_LEAST = -20.0  # log-probability of a class that a restricted answer did not name
_READER = "from petlbench.testing.conformance import answer_with_scores; answer_with_scores()"
_SHORT = ("protocol.shots=16", "curve=false", "threads=1", "save=true")  # enough for every method of this suite, and ``words`` can say more


class MethodConformance:
    """Subclass it in a test module and set ``method``; ``words`` are further settings, ``min_accuracy`` what the method must reach on mini/digits with
    16 images per class and ``min_gain`` by how much it must lower the cross entropy of the training images there.

    A method that says ``learns = False`` must change and store nothing instead.
    """

    method: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = ()
    min_accuracy: ClassVar[float] = 15.0  # percent; chance is 10
    # percent of the cross entropy before training; the lowest among the methods of this suite is 17, of blackvip
    min_gain: ClassVar[float] = 5.0

    def test_only_what_is_stored_trains(self) -> None:
        """Training changes nothing but what is stored, of all that the method and its network lead to by attributes, lists or closures."""
        task, config = mock_task(), _configured(self)
        with _opened(config, tiny_backbone(), task) as learner:
            learner.prepare(_data(task, config))
            before = _Tensors(learner)
            learner.fit(_data(task, config))
            after = _Tensors(learner)
        changed = after.ways_changed_since(before)
        assert not changed - after.stored, f"trained but not stored: {_some(changed - after.stored)}"
        if self._learns:
            assert changed, "training changed nothing; a method that does not learn says learns = False"
        else:
            assert not changed, f"a method that says learns = False trained {_some(changed)}"

    def test_training_changes_its_predictions(self) -> None:
        task, config = mock_task(), _configured(self)
        with _opened(config, tiny_backbone(), task) as learner:
            learner.prepare(_data(task, config))
            before = learner.predict(_test(task))
            learner.fit(_data(task, config))
            is_same = torch.equal(learner.predict(_test(task)), before)
        assert is_same is not self._learns, (
            "predictions are the same after training" if is_same else "learns = False, but predictions change"
        )

    def test_the_backbone_is_untouched(self) -> None:
        backbone, task = tiny_backbone(), mock_task()
        checksum = backbone.checksum()
        config = _configured(self)
        with _opened(config, backbone, task) as learner:
            learner.fit(_data(task, config))
            learner.predict(_test(task))
        assert backbone.checksum() == checksum
        assert not any(p.requires_grad or p.grad is not None for p in backbone.vit.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.vit.modules())

    def test_trainable_count_is_what_was_trained_and_stored(self) -> None:
        """Parameters that training leaves alone do not count, and are not stored as if they had been learned."""
        task, config = mock_task(), _configured(self)
        with _opened(config, tiny_backbone(), task) as learner:
            learner.prepare(_data(task, config))
            before = {name: parameter.detach().clone() for name, parameter in _module(learner).named_parameters()}
            learner.fit(_data(task, config))
            trained = sum(p.numel() for name, p in _module(learner).named_parameters() if not torch.equal(p, before[name]))
            buffers, state = {name for name, _ in _module(learner).named_buffers()}, learner.state()
            stored = sum(t.numel() for name, t in state.items() if name not in buffers and not name.startswith(PLAN))
            counted = sum(learner.parameter_counts())
        assert counted == stored, f"{counted:,} parameters are counted as trainable, {stored:,} are stored"
        assert counted == trained, f"{counted:,} parameters are counted as trainable, training changed {trained:,}"
        assert self._learns or not state, f"a method that says learns = False stores {_some(set(state))}"

    def test_it_is_deterministic_under_a_seed(self) -> None:
        first, second = (_trained_scores(_configured(self)) for _ in range(2))
        assert torch.equal(first, second)

    def test_what_it_learned_survives_a_fresh_process(self) -> None:
        backbone, task = tiny_backbone(), mock_task()
        config = _configured(self)
        with _opened(config, backbone, task) as learner, tempfile.TemporaryDirectory() as folder:
            learner.fit(_data(task, config))
            scores = learner.predict(_test(task))
            path = Path(folder) / "learned.safetensors"
            path.write_bytes(packed_checkpoint(learner.state(), config.identity, backbone.checksum(), task.spec.class_names))
            reply = _Reader.running(_READER).scores(path)
        assert "error" not in reply, reply["error"]
        assert torch.equal(torch.tensor(reply["scores"]), scores), "predictions in another process differ: something is not stored"

    def test_it_learns_the_mini_suite(self, tmp_path: Path) -> None:
        """It is above chance on test images, and what is stored is better on the training images than the method's own start."""
        from petlbench.runs.execute import execute

        config = resolve(parse_words([f"method={self.method}", "task=mini/digits", *_SHORT, *self.words, f"out={tmp_path}"]))
        record, _ = execute(config)
        assert record.error is None
        assert record.metrics is not None and record.metrics.accuracy > self.min_accuracy
        if self._learns:
            assert record.checkpoint is not None
            start, end = _losses(config, tmp_path / record.checkpoint)
            assert end < start * (1 - self.min_gain / 100), (
                f"the cross entropy of training images is {start:.3f} before and {end:.3f} after training"
            )

    def test_interrupted_and_resumed_it_gives_the_same(self, tmp_path: Path) -> None:
        """A run that is interrupted after any step of ``data.steps`` goes on as if it had not been. A method that does not use them starts over."""
        config = _configured(self)
        whole = _Trained(config, tmp_path / "whole")
        if not whole.steps:
            return
        stop = random.Random(self.method).randint(1, whole.steps)
        with contextlib.suppress(_Interrupted):
            _Trained(config, tmp_path / "interrupted", stop)
        resumed = _Trained(config, tmp_path / "interrupted")
        assert resumed.steps <= whole.steps - (stop - stop % KEPT_EVERY), "it began before the step that was kept"
        after = f"after step {stop} of {whole.steps}"
        assert resumed.meter.counts == whole.meter.counts, f"interrupted {after} and resumed, it has sent another number of queries"
        different = {name for name, tensor in whole.state.items() if not torch.equal(tensor, resumed.state[name])}
        assert not different, f"interrupted {after} and resumed, it has learned something else: {_some(different)}"
        assert resumed.epochs[-1:] == whole.epochs[-1:], f"interrupted {after} and resumed, it reports another last epoch"
        assert torch.equal(resumed.scores, whole.scores), f"interrupted {after} and resumed, it predicts something else"

    def test_it_leaves_counting_to_the_harness(self) -> None:
        """It claims no ``images_encoded``: the harness counts what enters the models that ``encoders()`` returns."""
        task, config = mock_task(), _configured(self)
        with _opened(config, tiny_backbone(), task) as learner:
            learner.fit(_data(task, config))
            learner.predict(_test(task))
            claims = hasattr(learner.method, "images_encoded")
        assert not claims, (
            "images_encoded is counted by the harness, not by the method; return the models that encode images from encoders()"
        )

    def test_it_did_not_reach_above_its_rung(self) -> None:
        """Below WEIGHTS, the method and the handle that it is given lead to no parameter of the model: not by attributes, closures, classes, or the
        globals of petlbench and of the method's module. Its access is one that its base class is run at."""
        backbone, task = tiny_backbone(), mock_task()
        config = _configured(self)
        with _opened(config, backbone, task) as learner:
            method: Method = learner.method
            if isinstance(method, GradientMethod):
                assert method.access >= Access.GRADIENTS
                return
            assert isinstance(method, QueryMethod) and isinstance(learner, QueryLearner) and method.access < Access.WEIGHTS
            learner.fit(_data(task, config))
            learner.predict(_test(task))
            weights = {p.data_ptr() for part in (backbone.vit, backbone.projection) if part is not None for p in part.parameters()}
            for name, root in (("method", method), ("model", learner.handle)):
                for way, found in reachable(root, name, (type(method).__module__,)):
                    assert not (isinstance(found, Tensor) and found.data_ptr() in weights), f"a parameter of the model is reached by {way}"

    @property
    def _learns(self) -> bool:
        return load_method(self.method)[0].learns


def answer_with_scores() -> None:
    """For every line of stdin, the path of a checkpoint of the mock task: load it in this process and print its test scores as JSON."""
    for line in sys.stdin:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # where a method prints is not where answers are read
                reply: dict[str, Any] = {"scores": _scores_of(Path(line.removesuffix("\n")))}
        except Exception:
            reply = {"error": traceback.format_exc()}
        print(json.dumps(reply), flush=True)


class _Reader:
    """A process that has trained nothing and answers with the scores of checkpoints. One serves all tests: what takes seconds is its imports."""

    def __init__(self, code: str) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self._process.communicate)  # the end of its input is the end of it

    @classmethod
    @functools.cache
    def running(cls, code: str) -> _Reader:
        return cls(code)

    def scores(self, path: Path) -> dict[str, Any]:
        """``{"scores": …}``, or ``{"error": …}`` with what was raised."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the process that reads checkpoints has ended"
        return dict(json.loads(line))


def _scores_of(path: Path) -> list[list[float]]:
    """Test scores of the mock task with what a checkpoint holds."""
    saved, task = read_checkpoint(path), mock_task()
    with _opened(restore(saved.config), tiny_backbone(), task) as learner:
        learner.load_state(saved.state)
        return learner.predict(_test(task)).tolist()


def _configured(case: MethodConformance) -> RunConfig:
    recipe = ("train.epochs=3", "train.warmup_epochs=0", "train.batch_size=12")
    return resolve(parse_words([f"method={case.method}", "task=mini/digits", *recipe, *case.words]))


def _opened(
    config: RunConfig, backbone: Backbone | RemoteBackbone, task: Task, meter: Meter | None = None
) -> AbstractContextManager[GradientLearner | QueryLearner]:
    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    method = load_method(config.method)[0](config.method_config, config.seed)
    return open_learner(method, backbone, task.spec, CPU, "fp32", meter or Meter(), config.access)


def _data(task: Task, config: RunConfig) -> TrainingData:
    generator = torch.Generator().manual_seed(config.seed)
    train = Batches(task.train, task.transform, config.train.batch_size, CPU, generator, config.train.drop_last)
    return TrainingData(train, Batches(task.val, task.transform, 64, CPU), config.train, task.spec.class_names, lambda epoch: None)


def _test(task: Task) -> Batches:
    return Batches(task.scored, task.transform, 64, CPU)


def _trained_scores(config: RunConfig) -> Tensor:
    task = mock_task()
    with _opened(config, tiny_backbone(), task) as learner:
        learner.fit(_data(task, config))
        return learner.predict(_test(task))


def _losses(config: RunConfig, checkpoint: Path) -> tuple[float, float]:
    """Cross entropy of a task's training images, before training and with what was learned."""
    losses = []
    with open_backbone(config, CPU) as (backbone, _):
        task = open_task(config, backbone)
        images = Batches(task.train, task.transform, 64, CPU)
        for state in (None, read_checkpoint(checkpoint).state):
            with _opened(config, backbone, task) as learner:
                if state is None:
                    learner.prepare(_data(task, config))
                else:
                    learner.load_state(state)
                log_probabilities = learner.predict(images).log_softmax(dim=1).clamp_min(_LEAST)
                losses.append(float(F.nll_loss(log_probabilities, images.labels)))
    return losses[0], losses[1]


class _Interrupted(BaseException):
    """What stands for the end of a process."""


class _Trained:
    """A training on the mock task that keeps its state in a file, and ends after a step if it is told to."""

    def __init__(self, config: RunConfig, path: Path, stop: int | None = None) -> None:
        self.steps = 0  # that the method has offered
        self.epochs: list[Epoch] = []
        self.meter, task = Meter(), mock_task()
        unfinished = Unfinished(path, dict, Every(steps=KEPT_EVERY))
        with _opened(config, tiny_backbone(), task, self.meter) as learner, unfinished.steps_lent() as lent:

            def offer(state: Callable[[], State], steps: int) -> None:
                assert lent.offer is not None
                lent.offer(state, steps)
                self.steps += steps
                if self.steps == stop:
                    raise _Interrupted

            unfinished.begin({"meter": self.meter, "random": GlobalGenerators(CPU)})
            data = _data(task, config)
            learner.fit(dataclasses.replace(data, log_epoch=self.epochs.append, steps=Steps(lent.resume, offer)))
            self.state, self.scores = learner.state(), learner.predict(_test(task))


class _Tensors:
    """The tensors that a method and its network lead to, with what is in them now."""

    def __init__(self, learner: GradientLearner | QueryLearner) -> None:
        module, names = _module(learner), set(learner.state())
        kept = {id(tensor) for name, tensor in module.state_dict(keep_vars=True).items() if name in names}
        roots = {"method": learner.method, "network": module}
        own = (type(learner.method).__module__,)
        found = [(way, thing) for way, thing in reachable(roots, "", own) if isinstance(thing, Tensor)]
        self.stored = {way for way, tensor in found if id(tensor) in kept}
        self._held = [tensor for _, tensor in found]  # or an id might be given anew
        self._by_id = {id(tensor): (way, tensor.detach().clone()) for way, tensor in found}
        self._by_way = dict(self._by_id.values())

    def ways_changed_since(self, before: _Tensors) -> set[str]:
        """The ways to tensors whose values were others, or that stand where others stood."""
        changed = set()
        for key, (way, now) in self._by_id.items():
            then = before._by_id[key][1] if key in before._by_id else before._by_way.get(way)
            if then is not None and not torch.equal(now, then):
                changed.add(way)
        return changed


def _module(learner: GradientLearner | QueryLearner) -> nn.Module:
    """Whose parameters and buffers are learned."""
    return learner.model if isinstance(learner, GradientLearner) else learner.method


def _some(ways: set[str]) -> str:
    return ", ".join(sorted(ways)[:5])
