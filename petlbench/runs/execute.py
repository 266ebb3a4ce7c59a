"""One run: a method on a backbone and a task, from its configuration to its record."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from petlbench.access.handle import Meter
from petlbench.access.tickets import lent
from petlbench.backbones.backbone import Backbone, load_backbone_cached
from petlbench.checkpoints.file import save_checkpoint, save_predictions
from petlbench.config.files import suite_of
from petlbench.config.identity import described, run_id
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.cache import Cache
from petlbench.data.joined import part_of_class
from petlbench.data.load import Task
from petlbench.errors import BudgetExceeded, Diverged, PetlbenchError
from petlbench.learners import Learner, open_learner
from petlbench.learners import cost as measure
from petlbench.learners.curve import Curve
from petlbench.learners.scores import accuracies_of_parts, accuracy, mask_classes
from petlbench.learners.setting import EVAL_BATCH, open_backbone, open_task, with_served_name
from petlbench.learners.token_usage import save_usage, token_usage
from petlbench.method import Method, QueryMethod
from petlbench.optim.device import pick_device
from petlbench.optim.loop import Epoch
from petlbench.optim.precision import choose
from petlbench.records import provenance, schema
from petlbench.records.store import RecordStore
from petlbench.remote.client import RemoteBackbone
from petlbench.runs.checks import check

Progress = Callable[[int, int], None]  # epochs or steps done, of how many


def execute(config: RunConfig, progress: Progress = lambda done, total: None, reraise: bool = False) -> tuple[schema.Record, Path]:
    """Carry a run out and write its record, whatever happens. Returns the record and its path.

    A failure is recorded and returned (with ``reraise`` also raised); an interrupt is recorded as ``cancelled`` and raised again.
    """
    check(config)
    with with_served_name(config) as (named, connected):
        run = _Run(named, progress, connected)
        status, error = "ok", None
        failure: BaseException | None = None
        try:
            run.carry_out()
        except Diverged as reason:
            status, error = "diverged", str(reason)
        except KeyboardInterrupt as reason:
            status, error, failure = "cancelled", "interrupted", reason
        except PetlbenchError as reason:
            status, error, failure = "failed", str(reason), reason if reraise else None
        except Exception as reason:
            status, error, failure = "failed", f"{type(reason).__name__}: {reason}", reason if reraise else None
        record, path = run.write(status, error)
        if failure is not None:
            raise failure
        return record, path


def record_path(config: RunConfig) -> Path:
    """Where a run's record lies, whether it was carried out or not."""
    store = RecordStore(Path(config.execution.out))
    return store.path(config.task, config.method, config.backbone.name, config.seed, run_id(config.identity))


class _Run:
    """The parts of a record, gathered as a run goes on, so that what is known can be written at any moment."""

    def __init__(self, config: RunConfig, progress: Progress, connected: RemoteBackbone | None = None) -> None:
        self.config = config
        self.progress = progress
        self.connected = connected  # to the server that has told the name of its model; None: there is none, or it was named before
        self.device = pick_device(config.execution.device)
        self.method: Method = load_method(config.method)[0](config.method_config, config.seed)
        self.meter = Meter(config.budget)
        self.clock = measure.Stopwatch(self.device)
        self.history: list[schema.Epoch] = []
        self.facts: dict[str, Any] = {}  # fields of the record, as they become known
        self.precision = config.precision
        self.counted: dict[str, Any] = {}  # fields of Cost
        self.status = "ok"
        self._curve: Curve | None = None
        self._scored: tuple[int, ...] | None = None  # the labels that test images may have; None: all
        self._cost_of_test: dict[str, int] = {}  # queries of one pass over the test split
        self._images_of_looks = (0, 0)  # forwarded and encoded for the curve only
        self._best: tuple[float, dict[str, Tensor]] | None = None
        self._select: Callable[[schema.Epoch], schema.Epoch] = lambda epoch: epoch  # under the rule ``last`` there is nothing to look at

    def carry_out(self) -> None:
        config = self.config
        threads = config.execution.threads or os.cpu_count() or 1
        torch.set_num_threads(threads)
        with (
            self.clock.measure("total"),
            threadpool_limits(threads, user_api="blas"),  # numpy's own, which CMA-ES decomposes matrices with
            open_backbone(config, self.device, self.connected) as (backbone, checksum),
        ):
            self.facts["backbone"] = schema.BackboneId(
                name=backbone.name,
                sha256=checksum,
                parameters=backbone.parameter_count,
                transport="http" if isinstance(backbone, RemoteBackbone) else "in_process",
            )
            self.precision = choose(config.precision, self.device, backbone.parameter_count)
            task = open_task(config, backbone)
            self._describe(task)
            if isinstance(backbone, Backbone):
                backbone.forget_rounded()  # else a run would not pay for what an earlier one has rounded
            self.memory = measure.AddedMemory(self.device)  # not earlier: the first run loads the backbone and prepares the task for others
            torch.manual_seed(config.seed)  # not earlier: loading the backbone draws random numbers, in a process's first run only
            setting = (self.device, self.precision, self.meter, config.access)
            with open_learner(self.method, backbone, task.spec, *setting) as learner:
                try:
                    self._fit(learner, task)
                    self._test(learner, task, checksum)
                    self._draw_curve(learner, task)
                finally:
                    looked_forwarded, looked_encoded = self._images_of_looks
                    self.counted["images_forwarded"] = learner.images_forwarded() - looked_forwarded
                    self.counted["images_decoded"] = task.images_decoded
                    self.counted["images_encoded"] = learner.images_encoded() - looked_encoded
        if backbone.checksum() != checksum:
            load_backbone_cached.cache_clear()
            raise RuntimeError(
                f"method {self.method.name} changed the shared backbone; its numbers and those of later runs cannot be trusted"
            )

    def _describe(self, task: Task) -> None:
        spec = task.spec
        self.facts.update(task_revision=spec.revision, class_count=len(spec.class_names), split_hashes=task.split_hashes)
        self.facts.update(layout=spec.layout, split=spec.split)
        self._scored = spec.scored

    def _fit(self, learner: Learner, task: Task) -> None:
        recipe = self.config.train
        generator = torch.Generator().manual_seed(self.config.seed)
        train = Batches(task.train, task.transform, recipe.batch_size, self.device, generator, recipe.drop_last)
        val = Batches(task.val, task.transform, EVAL_BATCH, self.device)
        test = Batches(task.test, task.transform, EVAL_BATCH, self.device)
        watched = {"best_val": val, "oracle_test": test}.get(self.config.protocol.selection)
        if watched is not None:
            self._select = partial(self._keep_best, learner, watched)
        if isinstance(self.method, QueryMethod) and self._has_curve:
            self._curve = Curve(self.meter, learner.state)
        self.meter.phase = "train"
        with self.clock.measure("train"):
            try:
                with (
                    lent(self.log_epoch) as log_epoch,
                    lent(self.evaluate_curve) as evaluate_curve,
                ):  # from the run, test images and the backbone could be reached
                    learner.fit(self._training_data(task, train, val, log_epoch, evaluate_curve))
            except BudgetExceeded as reason:
                self.status, self.facts["error"] = "budget", str(reason)
            if self._best is not None:
                learner.load_state(self._best[1])

    def _training_data(
        self, task: Task, train: Batches, val: Batches, log_epoch: Callable[[Epoch], None], evaluate_curve: Callable[[], None]
    ) -> TrainingData:
        config = self.config
        identity = [self.facts["backbone"].sha256, task.spec.revision, task.train.digest, described(config.protocol)]
        cache = Cache(hashlib.sha256(json.dumps(identity).encode()).hexdigest())
        names, parts = task.spec.class_names, part_of_class(task.spec)
        return TrainingData(train, val, config.train, names, log_epoch, evaluate_curve, cache, config.execution.cache_mb, parts)

    def log_epoch(self, reported: Epoch) -> None:
        """Record an epoch, and let the selection rule look at it."""
        epoch = schema.Epoch(**reported._asdict())
        if not math.isfinite(epoch.loss):
            raise Diverged(f"the training loss is {epoch.loss} in epoch {epoch.epoch}")
        self.history.append(self._select(epoch) if self._should_evaluate(epoch.epoch) else epoch)
        self.evaluate_curve()
        self.progress(epoch.epoch + 1, self.config.train.epochs)

    def evaluate_curve(self) -> None:
        """Keep what the method has learned for the curve, when it is time to."""
        if self._curve is not None:
            self._curve.after_step()

    @property
    def _has_curve(self) -> bool:
        """Unless it is said, not where somebody else may send a bill."""
        wanted = self.config.execution.curve
        return not self.config.backbone.is_remote if wanted is None else wanted

    def _should_evaluate(self, epoch: int) -> bool:
        """Whether a selection rule that looks at epochs looks at this one."""
        protocol = self.config.protocol
        return epoch % protocol.select_every == 0 or epoch >= self.config.train.epochs - protocol.select_tail

    def _keep_best(self, learner: Learner, watched: Batches, epoch: schema.Epoch) -> schema.Epoch:
        """Note the accuracy that the selection rule looks at and keep the first best state."""
        is_oracle = self.config.protocol.selection == "oracle_test"
        self.meter.phase = "test" if is_oracle else "val"
        reached = accuracy(mask_classes(learner.predict(watched), self._scored if is_oracle else None), watched.labels)
        self.meter.phase = "train"
        if self._best is None or reached > self._best[0]:
            self._best = (reached, learner.state())
        return epoch.model_copy(update={"test_accuracy" if is_oracle else "val_accuracy": reached})

    def _test(self, learner: Learner, task: Task, backbone_checksum: str) -> None:
        trainable, head = learner.parameter_counts()
        state = learner.state()
        stored = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        self.facts["parameters"] = schema.Parameters(
            trainable=trainable,
            head=head,
            stored_bytes=stored,
            backbone=self.facts["backbone"].parameters,
            allocation=learner.allocation(),
        )
        test = Batches(task.test, task.transform, EVAL_BATCH, self.device)
        self.meter.phase = "test"
        before = dict(self.meter.counts["test"])
        with self.clock.measure("eval"):
            scores = mask_classes(learner.predict(test), self._scored)
        self._cost_of_test = {name: count - before[name] for name, count in self.meter.counts["test"].items()}
        if not torch.isfinite(scores.amax(dim=1)).all():  # -inf: a class that a restricted answer did not name
            raise Diverged("the scores of test images are not finite")
        percent = accuracy(scores, test.labels)
        error = math.sqrt(percent * (100.0 - percent) / len(scores))
        best = self._best[0] if self._best and self.config.protocol.selection == "best_val" else None
        parts = accuracies_of_parts(task.spec, scores, test.labels.cpu())
        self.facts["metrics"] = schema.Metrics(accuracy=percent, samples=len(scores), standard_error=error, val_accuracy=best, parts=parts)
        self.counted["run_memory_mb"] = self.memory.mb
        self.counted["peak_memory_mb"] = measure.peak_memory_mb(self.device)
        self.counted["flops_per_image"] = learner.flops_per_image()
        path = record_path(self.config)
        self.facts["predictions"] = save_predictions(path.with_suffix(".predictions.safetensors"), scores.argmax(dim=1), test.labels.cpu())
        usage = token_usage(self.method, test, task.spec.class_names)
        if usage is not None:
            save_usage(path.with_suffix(".usage.safetensors"), usage)
            self.facts["token_usage"] = path.with_suffix(".usage.safetensors").name
        if self.config.execution.save:
            target = Path(self.config.execution.out) / "checkpoints" / f"{path.stem}.safetensors"
            save_checkpoint(target, state, self.config.identity, backbone_checksum)
            self.facts["checkpoint"] = str(target.relative_to(self.config.execution.out))

    def _draw_curve(self, learner: Learner, task: Task) -> None:
        """What it costs is counted apart: a run without a curve has the same cost."""
        if self._curve is None:
            return
        test = Batches(task.test, task.transform, EVAL_BATCH, self.device)
        before = learner.images_forwarded(), learner.images_encoded()

        def look(state: dict[str, Tensor]) -> float:
            learner.load_state(state)
            return accuracy(mask_classes(learner.predict(test), self._scored), test.labels)

        try:
            self._curve.draw(self.facts["metrics"].accuracy, self._cost_of_test, look)
        finally:
            self._images_of_looks = (learner.images_forwarded() - before[0], learner.images_encoded() - before[1])

    def write(self, status: str, error: str | None) -> tuple[schema.Record, Path]:
        config, seconds = self.config, self.clock.seconds
        queries = {phase: schema.QueryCount(**counts) for phase, counts in self.meter.counts.items()}
        fields: dict[str, Any] = {
            "run_id": run_id(config.identity),
            "status": self.status if status == "ok" else status,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "suite": suite_of(config.task),
            "task": config.task,
            "protocol": schema.ProtocolId(id=config.protocol_id, settings=described(config.protocol)),
            "selection": config.protocol.selection,
            "backbone": schema.BackboneId(name=config.backbone.name, sha256="", parameters=0),
            "method": schema.Method(
                name=config.method,
                plugin=config.plugin,
                access=self.method.access.name,
                access_seen=None if self.meter.seen is None else self.meter.seen.name,
                config={key: value for key, value in config.identity["method"].items() if key not in ("name", "plugin")},
                cite=self.method.cite,
            ),
            "seed": config.seed,
            "hyperparameters": config.hyperparameters,
            "config": config.identity,
            "code": provenance.code(),
            "environment": provenance.environment(self.device, self.precision),
            "cost": schema.Cost(
                train_seconds=seconds.get("train", 0.0),
                eval_seconds=seconds.get("eval", 0.0),
                total_seconds=seconds.get("total", 0.0),
                queries=queries,
                **self.counted,
            ),
            "history": self.history,
            "curve": self._curve.points if self._curve is not None else [],
        }
        record = schema.Record(**(fields | self.facts | ({"error": error} if error else {})))
        if not record.has_result:
            record = record.model_copy(update={"metrics": None, "predictions": None, "token_usage": None, "checkpoint": None})
        return record, RecordStore(Path(config.execution.out)).write(record)
