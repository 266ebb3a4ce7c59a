"""Execute one run, from its configuration to its record, from top to bottom."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from threadpoolctl import threadpool_limits
from torch import Tensor

from petlbench.access.meter import Meter
from petlbench.access.tickets import lent
from petlbench.backbones.backbone import Backbone
from petlbench.backbones.loaded import load_backbone_cached
from petlbench.checkpoints.file import packed_checkpoint, packed_predictions
from petlbench.config.every import parse_every
from petlbench.config.identity import to_identity
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.cache import Cache
from petlbench.data.content import with_content
from petlbench.data.joined import part_of_class
from petlbench.data.load import Task
from petlbench.errors import BudgetExceeded, ConfigError, DataError, Diverged, PetlbenchError, Pruned, described, message_of
from petlbench.learners import Learner, open_learner
from petlbench.learners.cost import AddedMemory, Stopwatch
from petlbench.learners.curve import Curve
from petlbench.learners.scores import accuracies_of_parts, accuracy, mask_classes
from petlbench.learners.selection import Selection
from petlbench.learners.setting import EVAL_BATCH, open_backbone, open_task, with_served_name
from petlbench.learners.token_usage import packed_usage, token_usage
from petlbench.method import Method, QueryMethod
from petlbench.optim.device import pick_device
from petlbench.optim.loop import Epoch
from petlbench.optim.precision import choose
from petlbench.optim.steps import Held
from petlbench.records import schema
from petlbench.records.store import RecordStore, is_kept
from petlbench.remote.client import RemoteBackbone
from petlbench.runs.checks import check, check_method
from petlbench.runs.log import RunLog, record_path
from petlbench.runs.pruning import report
from petlbench.runs.surroundings import surroundings_kept
from petlbench.runs.unfinished import GlobalGenerators, Unfinished, code_digest, machine_identity, remove_state

Progress = Callable[[int, int], None]  # epochs or steps done, of how many
_log = logging.getLogger("petlbench.runs")


def execute(config: RunConfig, progress: Progress = lambda done, total: None, reraise: bool = False) -> tuple[schema.Record, Path]:
    """Execute a run and write its record whatever happens. Returns the record and its path.

    A failure is recorded and returned (with ``reraise`` also raised); an interrupt is recorded as ``cancelled`` and raised again. An
    earlier result is never replaced by a failure: then the returned record is not the one at the path (``records.store.is_kept``).
    """
    check(config)
    config = with_content(copy.deepcopy(config))  # a plugin may change its settings, which runs with other seeds share
    with with_served_name(config) as (named, connected):
        if connected is not None:
            check_method(named, connected.traits)
        log = _open_log(named)
        log.check()
        failure: BaseException | None = None
        try:
            with surroundings_kept():
                _carry_out(log, progress, connected)
            written = log.write("ok")
            remove_state(state_path(named))
            return written
        except Diverged as reason:
            status, error = "diverged", message_of(reason)
            remove_state(state_path(named))  # it would diverge again
        except Pruned as reason:
            status, error = "pruned", message_of(reason)
            remove_state(state_path(named))
        except KeyboardInterrupt as reason:
            status, error, failure = "cancelled", "interrupted", reason
        except PetlbenchError as reason:
            status, error, failure = "failed", message_of(reason), reason if reraise else None
        except BaseException as reason:  # whatever way a plugin leaves, sys.exit as well: the bench goes on, and a script that called does
            status, error = "failed", described(reason)
            if reraise:
                failure = reason if isinstance(reason, Exception) else RuntimeError(error)
        record, path = log.write(status, error)
        if failure is not None:
            if is_kept(record, path):
                _log.warning("%s on %s, seed %s: the earlier result was kept: %s", config.method, config.task, config.seed, path)
            raise failure
        return record, path


def record_without_result(config: RunConfig, status: schema.Status, error: str) -> tuple[schema.Record, Path]:
    """Record a run whose process is gone. Returns the record and its path, as ``execute`` does."""
    return _open_log(config).write(status, error)


def _open_log(config: RunConfig) -> RunLog:
    device = pick_device(config.execution.device)
    plugin = load_method(config.method)[0]
    return RunLog(config, plugin, device, Meter(config.budget), Stopwatch(device), config.precision)


def _carry_out(log: RunLog, progress: Progress, connected: RemoteBackbone | None) -> None:  # noqa: PLR0915 (one story, in one place)
    """Load the backbone, open the task, train, test (or score on val), draw the curve. ``connected``: the open connection to a served model."""
    config, device, meter, clock = log.config, log.device, log.meter, log.clock
    method = log.plugin(config.method_config, config.seed)
    threads = config.execution.threads or os.cpu_count() or 1
    torch.set_num_threads(threads)
    with (
        clock.measure("total"),
        threadpool_limits(threads, user_api="blas"),  # numpy's own, which CMA-ES decomposes matrices with
        open_backbone(config, device, connected) as (backbone, checksum),
    ):
        log.fields["backbone"] = schema.BackboneId(
            name=backbone.name,
            sha256=checksum,
            parameters=backbone.parameter_count,
            transport="http" if isinstance(backbone, RemoteBackbone) else "in_process",
            mean=list(backbone.facts.mean),
            std=list(backbone.facts.std),
            activation="" if isinstance(backbone, RemoteBackbone) else backbone.activation,
            self_check=[] if isinstance(backbone, RemoteBackbone) else list(backbone.self_check),
        )
        log.precision = choose(config.precision, device, backbone.parameter_count)

        task = open_task(config, backbone)
        spec = task.spec
        if spec.name != config.published_task:
            raise DataError(f"task {config.task} changed while the run began; run it again")
        log.fields |= {"task_revision": spec.revision, "class_count": len(spec.class_names), "split_hashes": task.split_hashes}
        log.fields |= {"layout": spec.layout, "split": spec.split}
        shuffled = torch.Generator().manual_seed(config.seed)
        train = Batches(task.train, task.transform, config.train.batch_size, device, shuffled, config.train.drop_last)
        val, scored = (Batches(split, task.transform, EVAL_BATCH, device) for split in (task.val, task.scored))
        phase = config.protocol.score_on

        if isinstance(backbone, Backbone):
            backbone.drop_bf16_copies()  # else a run would not pay for copies that an earlier one has made
        unfinished = _unfinished(log, checksum, task, isinstance(backbone, RemoteBackbone))
        if isinstance(backbone, RemoteBackbone):
            backbone.keep_answers(unfinished.journal)
        memory = AddedMemory(device)  # not earlier: the first run loads the backbone and prepares the task for others
        torch.manual_seed(config.seed)  # not earlier: loading the backbone draws random numbers, in a process's first run only
        with (
            open_learner(method, backbone, spec, device, log.precision, meter, config.access) as learner,
            _images_counted(log, learner, task) as counted,
        ):
            if isinstance(method, QueryMethod):
                meter.require(phase, images=scored.image_count)  # not after training: a test that the budget does not allow
            selection = Selection(config.protocol, config.train.epochs, learner, meter, val, scored, task.scored_labels)
            curve = Curve(meter, learner.state) if isinstance(method, QueryMethod) and _wants_curve(config) else None
            parts: dict[str, Held] = {
                "log": log,
                "meter": meter,
                "clock": clock,
                "memory": memory,
                "images": counted,
                "selection": selection,
            }
            parts |= ({} if curve is None else {"curve": curve}) | {"random": GlobalGenerators(device)}

            def evaluate_curve() -> None:
                if curve is not None:
                    curve.after_step()

            def look_at_trial(epoch: schema.Epoch) -> None:
                if config.pruning is not None and config.pruning.is_due(epoch.epoch + 1) and epoch.epoch + 1 < config.train.epochs:
                    with meter.during("val"):
                        reached = accuracy(learner.predict(val), val.labels)
                    log.history[-1] = epoch.model_copy(update={"val_accuracy": reached})
                    report(config.pruning, epoch.epoch + 1, reached)

            def log_epoch(epoch: Epoch) -> None:
                log.history.append(selection.evaluate(_checked(epoch, method.name)))
                look_at_trial(log.history[-1])
                evaluate_curve()
                if unfinished.is_missed:
                    _say_once(f"method {method.name} does not use data.steps: when it is interrupted, it starts over")
                progress(epoch.epoch + 1, config.train.epochs)

            # Methods get revocable callbacks, so that they cannot reach the test images.
            def train_method() -> dict[str, Tensor]:
                with lent(log_epoch) as lent_log, lent(evaluate_curve) as lent_curve, unfinished.steps_lent() as steps:
                    classes, cache = part_of_class(spec), _cache(config, checksum, task)
                    data = TrainingData(
                        train, val, config.train, spec.class_names, lent_log, lent_curve, cache, config.execution.cache_mb, classes, steps
                    )
                    try:
                        learner.fit(data)
                    except BudgetExceeded as reason:
                        log.status, log.fields["error"] = "budget", str(reason)
                selection.restore_best()
                return learner.state()

            def test_method() -> dict[str, Any]:
                before = dict(meter.counts[phase])
                with clock.measure("eval"), meter.during(phase):
                    scores = mask_classes(learner.predict(scored), task.scored_labels)
                return {"scores": scores, "cost": {name: count - before[name] for name, count in meter.counts[phase].items()}}

            with clock.measure("train"):
                unfinished.begin(parts)
                was_trained = unfinished.has("learned")
                state = unfinished.once("learned", train_method)
                if was_trained:
                    learner.load_state(state)
            log.fields["parameters"] = _parameters(learner, state, backbone.parameter_count)
            tested = unfinished.once("tested", test_method)
            scores, cost_of_test = tested["scores"], tested["cost"]
            log.fields["metrics"] = _metrics(scores, scored, task, selection.val_accuracy)
            log.cost |= {"run_memory_mb": memory.mb, "peak_memory_mb": memory.peak_mb, "resumed": unfinished.resumed}
            log.cost["flops_per_image"] = learner.flops_per_image()
            _keep_files(log, method, scores, scored, task, state, checksum)

            if curve is not None:
                with counted.apart():
                    look = partial(_accuracy_of, learner=learner, scored=scored, task=task)
                    curve.draw(log.fields["metrics"].accuracy, cost_of_test, look, unfinished.after_part)
                log.fields["curve"] = curve.points
    if backbone.checksum() != checksum:
        load_backbone_cached.cache_clear()
        raise RuntimeError(f"method {method.name} changed the shared backbone; its numbers and those of later runs cannot be trusted")


def state_path(config: RunConfig) -> Path:
    """Return where an unfinished run keeps its state."""
    return record_path(config).with_suffix(".unfinished.safetensors")


def _unfinished(log: RunLog, checksum: str, task: Task, is_remote: bool) -> Unfinished:
    """Find the state of a run that was interrupted. It fits only what computes the same."""
    config = log.config

    def identity() -> dict[str, str]:
        said = {"code": code_digest(log.plugin.__module__), "settings": config.run_id, "weights of the backbone": checksum}
        said |= {"data": task.spec.revision, "curve": str(_wants_curve(config)).lower()}
        return said | dict(machine_identity(log.device, log.precision))

    every = config.execution.checkpoint_every
    return Unfinished(state_path(config), identity, None if every is None else parse_every(every), is_remote)


@cache
def _say_once(what: str) -> None:
    _log.warning("%s", what)


def _checked(epoch: Epoch, method: str) -> schema.Epoch:
    """Return what a method reported as a record holds it. Diverged when a number is not finite; ConfigError when it is none."""
    try:
        number, loss, rate = int(epoch.epoch), float(epoch.loss), float(epoch.learning_rate)
        for what, value in (("training loss", loss), ("learning rate", rate)):
            if not math.isfinite(value):
                raise Diverged(f"the {what} is {value} in epoch {number}")
        return schema.Epoch(epoch=number, loss=loss, learning_rate=rate)
    except ValidationError as error:
        raise ConfigError(f"method {method} reported an epoch with {schema.first_problem(error)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"method {method} reported an epoch that holds something else than numbers: {error}") from None


def _wants_curve(config: RunConfig) -> bool:
    """Return ``execution.curve``; by default True unless the model is served, where queries may cost money. A curve is of test images."""
    if config.protocol.score_on != "test":
        return False
    return not config.backbone.is_remote if config.execution.curve is None else config.execution.curve


def _cache(config: RunConfig, checksum: str, task: Task) -> Cache:
    """Return the cache of results that depend on the backbone, the training images and the protocol only."""
    identity = [checksum, task.spec.revision, task.train.digest, to_identity(config.protocol)]
    return Cache(hashlib.sha256(json.dumps(identity).encode()).hexdigest())


def _parameters(learner: Learner, state: dict[str, Tensor], backbone: int) -> schema.Parameters:
    trainable, head = learner.parameter_counts()
    stored = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    return schema.Parameters(trainable=trainable, head=head, stored_bytes=stored, backbone=backbone, allocation=learner.allocation())


def _metrics(scores: Tensor, scored: Batches, task: Task, val_accuracy: float | None) -> schema.Metrics:
    """Diverged when an image has no finite score. (-inf is one that a restricted answer did not name.)"""
    if not torch.isfinite(scores.amax(dim=1)).all():
        raise Diverged(f"the scores of {'val' if task.test is None else 'test'} images are not finite")
    percent = accuracy(scores, scored.labels)
    return schema.Metrics(
        accuracy=percent,
        samples=len(scores),
        standard_error=math.sqrt(percent * (100.0 - percent) / len(scores)),
        val_accuracy=val_accuracy,
        parts=accuracies_of_parts(task.spec, scores, scored.labels.cpu()),
    )


def _keep_files(log: RunLog, method: Method, scores: Tensor, scored: Batches, task: Task, state: dict[str, Tensor], checksum: str) -> None:
    """Add predictions, token usage and, with ``save``, the checkpoint to the files written with the record."""
    predictions = packed_predictions(scores.argmax(dim=1), scored.labels.cpu())
    digest = hashlib.sha256(predictions).hexdigest()
    log.fields["predictions"] = schema.Predictions(file=log.keep("predictions", predictions).name, sha256=digest)
    usage = token_usage(method, scored, task.spec.class_names)
    if usage is not None:
        log.fields["token_usage"] = log.keep("usage", packed_usage(usage)).name
    if log.config.execution.save:
        store = RecordStore(Path(log.config.execution.out))
        learned = log.keep("checkpoint", packed_checkpoint(state, log.config.identity, checksum, task.spec.class_names), store.checkpoints)
        log.fields["checkpoint"] = learned.relative_to(store.results).as_posix()


def _accuracy_of(state: dict[str, Tensor], learner: Learner, scored: Batches, task: Task) -> float:
    """Return the test accuracy of a learned state."""
    learner.load_state(state)
    return accuracy(mask_classes(learner.predict(scored), task.scored_labels), scored.labels)


class _Counted:
    """Counts the images that are decoded, and those through the backbone and the method's auxiliary models, without those of ``apart``."""

    def __init__(self, learner: Learner, task: Task) -> None:
        self._counters = {
            "images_forwarded": learner.images_forwarded,
            "images_encoded": learner.images_encoded,
            "images_decoded": lambda: task.images_decoded,
        }
        self._left_out = dict.fromkeys(self._counters, 0)
        self._before: dict[str, int] | None = None  # what is counted does not grow meanwhile

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Exclude what is forwarded in this block from the run's cost, which is then the same with and without a curve."""
        self._before = self.as_cost()
        try:
            yield
        finally:
            before, self._before = self._before, None
            self.load_state_dict(before | {"images_decoded": self.as_cost()["images_decoded"]})

    def as_cost(self) -> dict[str, int]:
        return self._before or {name: count() - self._left_out[name] for name, count in self._counters.items()}

    state_dict = as_cost

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Count on from there."""
        self._left_out = {name: count() - state[name] for name, count in self._counters.items()}


@contextmanager
def _images_counted(log: RunLog, learner: Learner, task: Task) -> Iterator[_Counted]:
    """Record the numbers of images whatever happens."""
    counted = _Counted(learner, task)
    try:
        yield counted
    finally:
        log.cost |= counted.as_cost()
