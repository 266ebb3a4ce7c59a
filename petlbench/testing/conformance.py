"""The checks, as a class of pytest tests over one method name."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from petlbench.access.handle import Access, Meter
from petlbench.backbones.backbone import Backbone
from petlbench.checkpoints.file import read_checkpoint, save_checkpoint
from petlbench.cli.words import parse_words
from petlbench.config.resolve import RunConfig, resolve, restore
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.load import Task
from petlbench.learners import PLAN, GradientLearner, Learner, open_learner
from petlbench.method import GradientMethod, Method, QueryMethod
from petlbench.testing.mocks import mock_task, tiny_backbone

CPU = torch.device("cpu")
_RELOAD = "import sys; from petlbench.testing.conformance import print_predictions; print_predictions(sys.argv[1])"


class MethodConformance:
    """Subclass it in a test module and set ``method``; ``words`` are further settings, ``min_accuracy`` what the method must reach on mini/digits."""

    method: ClassVar[str] = ""
    words: ClassVar[tuple[str, ...]] = ()
    min_accuracy: ClassVar[float] = 15.0  # percent; chance is 10

    def test_only_declared_parameters_train(self) -> None:
        """What training changes is exactly what the learner counts and stores; everything else of the network stays as it was."""
        backbone, task = tiny_backbone(), mock_task()
        config = _configured(self)
        with _opened(config, backbone, task) as learner:
            learner.prepare(_data(task, config))
            before = _everything(learner)
            learner.fit(_data(task, config))
            after = _everything(learner)
            stored = learner.state()
        changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        assert changed <= set(stored), f"trained but not stored: {sorted(changed - set(stored))}"
        if isinstance(learner, GradientLearner):
            assert changed, "training changed nothing"

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

    def test_trainable_count_equals_what_is_stored(self) -> None:
        backbone, task = tiny_backbone(), mock_task()
        config = _configured(self)
        with _opened(config, backbone, task) as learner:
            learner.prepare(_data(task, config))
            buffers = _stored_buffers(learner)
            stored = sum(t.numel() for name, t in learner.state().items() if name not in buffers and not name.startswith(PLAN))
            assert sum(learner.parameter_counts()) == stored

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
            save_checkpoint(path, learner.state(), config.identity, backbone.checksum())
            reply = subprocess.run([sys.executable, "-c", _RELOAD, str(path)], capture_output=True, text=True, check=False)
        assert reply.returncode == 0, reply.stderr
        assert torch.equal(torch.tensor(json.loads(reply.stdout)), scores)

    def test_it_is_above_chance_on_the_mini_suite(self, tmp_path: Path) -> None:
        from petlbench.runs.execute import execute

        short = ("task=mini/digits", f"out={tmp_path}", "threads=1")
        record, _ = execute(resolve(parse_words([f"method={self.method}", *self.words, *short])))
        assert record.error is None
        assert record.metrics is not None and record.metrics.accuracy > self.min_accuracy

    def test_it_did_not_reach_above_its_rung(self) -> None:
        """A method below WEIGHTS holds a handle that leads to no parameter of the model; its access is one that its base class is run at."""
        backbone, task = tiny_backbone(), mock_task()
        config = _configured(self)
        with _opened(config, backbone, task) as learner:
            method: Method = learner.method
            if isinstance(method, GradientMethod):
                assert method.access >= Access.GRADIENTS
                return
            assert isinstance(method, QueryMethod) and method.access < Access.WEIGHTS
            learner.fit(_data(task, config))
            learner.predict(_test(task))
            held = {id(p) for p in backbone.vit.parameters()}
            assert not held & _reachable(method), "the method holds a parameter of the model"


def print_predictions(path: str) -> None:
    """Load a checkpoint of the mock task in this process and print its test scores as JSON."""
    saved = read_checkpoint(Path(path))
    config = restore(saved.config)
    task = mock_task()
    with _opened(config, tiny_backbone(), task) as learner:
        learner.load_state(saved.state)
        print(json.dumps(learner.predict(_test(task)).tolist()))


def _configured(case: MethodConformance) -> RunConfig:
    recipe = ("train.epochs=3", "train.warmup_epochs=0", "train.batch_size=12")
    return resolve(parse_words([f"method={case.method}", "task=mini/digits", *recipe, *case.words]))


def _opened(config: RunConfig, backbone: Backbone, task: Task):  # type: ignore[no-untyped-def]
    from petlbench.config.resolve import load_method

    torch.manual_seed(config.seed)
    torch.set_num_threads(1)
    method = load_method(config.method)[0](config.method_config, config.seed)
    return open_learner(method, backbone, task.spec, CPU, "fp32", Meter(), config.access)


def _data(task: Task, config: RunConfig) -> TrainingData:
    generator = torch.Generator().manual_seed(config.seed)
    train = Batches(task.train, task.transform, config.train.batch_size, CPU, generator, config.train.drop_last)
    return TrainingData(train, Batches(task.val, task.transform, 64, CPU), config.train, task.spec.class_names, lambda epoch: None)


def _test(task: Task) -> Batches:
    return Batches(task.test, task.transform, 64, CPU)


def _trained_scores(config: RunConfig) -> Tensor:
    task = mock_task()
    with _opened(config, tiny_backbone(), task) as learner:
        learner.fit(_data(task, config))
        return learner.predict(_test(task))


def _everything(learner: Learner) -> dict[str, Tensor]:
    module = learner.model if isinstance(learner, GradientLearner) else learner.method  # type: ignore[attr-defined]
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _stored_buffers(learner: Learner) -> set[str]:
    module = learner.model if isinstance(learner, GradientLearner) else learner.method  # type: ignore[attr-defined]
    return {name for name, _ in module.named_buffers()}


def _reachable(root: object) -> set[int]:
    """Ids of everything that an object leads to through attributes, containers and closures; modules and classes are not followed."""
    seen: set[int] = set()
    waiting = [root]
    skipped = (type, type(sys), type(_reachable))
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        following = gc.get_referents(found) if not isinstance(found, skipped) else _closure(found)
        waiting += following
    return seen


def _closure(found: object) -> list[object]:
    """A function leads to its closure and defaults, not to its module's globals."""
    if not isinstance(found, type(_reachable)):
        return []
    return [*(cell.cell_contents for cell in found.__closure__ or ()), *(found.__defaults__ or ())]
