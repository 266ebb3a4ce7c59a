"""The subjects of measurement: methods on the harness's own learner, two plain training loops, and bare matrix products.

Letters in shapes: B images of a batch, S input size, T = B * N rows of tokens, C classes.
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.floor import GradientWatch, forward_products, training_flops
from petlbench.access.endpoint import Card
from petlbench.backbones.backbone import Backbone, load_backbone
from petlbench.config.resolve import RunConfig, load_method, resolve
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.split import Split
from petlbench.data.task import TaskSpec
from petlbench.data.transforms import Form, Transform
from petlbench.learners import GradientLearner
from petlbench.optim.precision import choose

CLASSES = 100  # C
LEARNING_RATE = 1e-5  # labels are random: no speed depends on the rate, and nothing diverges
LINEARS = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
GEMM_SECONDS = 0.1  # least duration of the products that are timed at once
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Settings:
    """Settings that all configurations of a measurement share."""

    backbone: str  # one of BACKBONES
    precision: str  # fp32, bf16 or auto
    device: str  # as in a run: auto, cpu, cuda
    batch: int  # B
    steps: int  # batches per round
    rounds: int  # counted ones; one more comes first
    threads: int | None  # of torch on a CPU; None: all cores


class Subject(Protocol):
    """Something that passes forward and trains in rounds."""

    number_format: str
    repetitions: int  # batches, or passes over the products, per round

    def forward(self) -> None:
        """One round of forward passes only."""
        ...

    def train(self, report: Callable[[], None]) -> None:
        """All training rounds, the first one included. ``report`` is called after each and may take its time."""
        ...

    def facts(self, watch: GradientWatch) -> dict[str, Any]:
        """After the last training round: ``flops`` of one repetition, "forward" and "step"."""
        ...


def vit_b16() -> Backbone:
    """ViT-B/16 at 224 pixels, weights as timm draws them."""
    return Backbone(Card("vit_b16", 224, HALF, HALF, source="random"), VisionTransformer(num_classes=0))


BACKBONES: dict[str, Callable[[], Backbone]] = {"vit_b16": vit_b16, "mini_clip": lambda: load_backbone("mini_clip")}


class MethodSubject:
    """A method as a run trains it, on random images and labels."""

    def __init__(self, name: str, settings: Settings, device: torch.device) -> None:
        backbone = BACKBONES[settings.backbone]().to(device)
        config = run_config(name, settings)
        self.number_format = choose(settings.precision, device, backbone.parameter_count)
        self.repetitions = settings.steps
        self._products = forward_products(backbone.vit, backbone.card.input_size)
        split = random_split(settings.steps * settings.batch, backbone.card.input_size)
        side = backbone.card.input_size
        transform = Transform(Form("squash", side, cut=side), backbone.card.mean, backbone.card.std)
        classes = tuple(f"class {label}" for label in range(CLASSES))
        spec = TaskSpec(config.task, classes, ("a photo of {}.",), "random", lambda _: split.source)
        shuffled = torch.Generator().manual_seed(0)
        train = Batches(split, transform, settings.batch, device, shuffled)
        val = Batches(split.take(np.arange(settings.batch)), transform, settings.batch, device)
        self._data = TrainingData(train, val, config.train, classes, lambda _: None)
        method: Any = load_method(name)[0](config.method_config)
        torch.manual_seed(0)
        self._learner = GradientLearner(method, backbone, spec, device, self.number_format)

    def forward(self) -> None:
        self._learner.prepare(self._data)  # does nothing after the first time
        self._learner.predict(self._data.train)

    def train(self, report: Callable[[], None]) -> None:
        self._learner.fit(replace(self._data, log_epoch=lambda _: report()))

    def facts(self, watch: GradientWatch) -> dict[str, Any]:
        return {"flops": training_flops(self._learner.model.vit, self._products, self._data.train.batch_size, watch)}


class PlainFull:
    """Full fine-tuning of timm's model as one would write it down: AdamW, cross entropy, fp32, nothing of this project but the weights."""

    number_format = "fp32"

    def __init__(self, settings: Settings, device: torch.device) -> None:
        backbone = BACKBONES[settings.backbone]()
        vit: Any = backbone.vit
        vars(vit.blocks[-1]).pop("forward", None)  # all of timm's last block, as a plain loop runs it
        self._products = forward_products(vit, backbone.card.input_size)
        self.repetitions = settings.steps
        vit.reset_classifier(CLASSES)
        self._vit: nn.Module = vit.requires_grad_(True)
        self._settings, self._device = settings, device
        split = random_split(settings.steps * settings.batch, backbone.card.input_size)
        self._images = torch.from_numpy(split.images).permute(0, 3, 1, 2).contiguous().float().div(127.5).sub(1)
        self._labels = torch.from_numpy(split.labels)
        self._model = self.prepared(self._vit).to(device)

    def prepared(self, model: nn.Module) -> nn.Module:
        """The model that is trained."""
        return model

    @torch.inference_mode()
    def forward(self) -> None:
        self._model.eval()
        for images in self._images.split(self._settings.batch):
            self._model(images.to(self._device))

    def train(self, report: Callable[[], None]) -> None:
        model, device = self._model, self._device
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
        model.train()
        for _ in range(self._settings.rounds + 1):
            for indices in torch.randperm(len(self._labels)).split(self._settings.batch):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(self._images[indices].to(device)), self._labels[indices].to(device))
                loss.backward()
                optimizer.step()
            report()

    def facts(self, watch: GradientWatch) -> dict[str, Any]:
        return {"flops": training_flops(self._vit, self._products, self._settings.batch, watch)}


class PlainPeft(PlainFull):
    """The same loop around the peft library's LoRA with that library's defaults; the head is trained as well."""

    def prepared(self, model: nn.Module) -> nn.Module:
        from peft import LoraConfig, get_peft_model  # takes seconds

        return get_peft_model(model, LoraConfig(r=8, target_modules=["qkv"], modules_to_save=["head"]))


class Gemm:
    """The products of one block's linear layers, one after the other and nothing else, into memory that is there already.

    Forward: (T, in) x (in, out). Activation gradient: (T, out) x (out, in). A training round is one of each.
    """

    def __init__(self, settings: Settings, device: torch.device) -> None:
        backbone = BACKBONES[settings.backbone]()
        vit: Any = backbone.vit
        tokens = settings.batch * (vit.patch_embed.num_patches + vit.num_prefix_tokens)
        self.number_format = choose(settings.precision, device, backbone.parameter_count)
        self.repetitions = 1
        self._device, self._rounds = device, settings.rounds + 1
        random = partial(torch.randn, device=device, dtype=torch.bfloat16 if self.number_format == "bf16" else torch.float32)
        self._operands: dict[str, tuple[Tensor, Tensor, Tensor]] = {}  # name -> first factor, second factor, result
        self._flops: dict[str, float] = {}  # name -> FLOPs of one product
        for name, path in LINEARS.items():
            linear = vit.blocks[0].get_submodule(path)
            rows_in, rows_out = (random(tokens, width) for width in (linear.in_features, linear.out_features))
            weight = random(linear.out_features, linear.in_features)
            self._operands[f"{name} forward"] = (rows_in, weight.t(), torch.empty_like(rows_out))
            self._operands[f"{name} gradient"] = (rows_out, weight, torch.empty_like(rows_in))
            self._flops |= dict.fromkeys((f"{name} forward", f"{name} gradient"), 2.0 * tokens * weight.numel())
        self._seconds: dict[str, list[float]] = {name: [] for name in self._operands}  # of one product, by training round
        self._run("forward")
        self.repetitions = math.ceil(GEMM_SECONDS / sum(self._run("forward").values()))

    def forward(self) -> None:
        self._run("forward")

    def train(self, report: Callable[[], None]) -> None:
        for _ in range(self._rounds):
            for name, seconds in self._run("").items():
                self._seconds[name].append(seconds / self.repetitions)
            report()

    def facts(self, watch: GradientWatch) -> dict[str, Any]:
        """Also ``gflops``: of every product, the median over the counted training rounds."""
        rates = {name: self._flops[name] / statistics.median(seconds[1:]) / 1e9 for name, seconds in self._seconds.items()}
        forward = sum(flops for name, flops in self._flops.items() if name.endswith("forward"))
        return {"flops": {"forward": forward, "step": sum(self._flops.values())}, "gflops": rates}

    def _run(self, direction: str) -> dict[str, float]:
        """Seconds by product."""
        seconds = {}
        for name, (first, second, result) in self._operands.items():
            if name.endswith(direction):
                start = now(self._device)
                for _ in range(self.repetitions):
                    torch.mm(first, second, out=result)
                seconds[name] = now(self._device) - start
        return seconds


REFERENCES: dict[str, Callable[[Settings, torch.device], Subject]] = {"gemm": Gemm, "plain_full": PlainFull, "plain_peft": PlainPeft}


def subject_type(name: str, settings: Settings) -> Callable[[Settings, torch.device], Subject]:
    """Return the function that builds a reference or a method; everything that it will import is imported here."""
    if settings.backbone == "mini_clip":
        importlib.import_module("petlbench.backbones.families.mini_clip")
    if name == "plain_peft" or (name not in REFERENCES and load_method(name)[0].name == "lora_peft"):
        importlib.import_module("peft")  # brings transformers along
    return REFERENCES.get(name) or partial(MethodSubject, name)


def run_config(method: str, settings: Settings) -> RunConfig:
    """A run of the method with its own recipe, but for what the measurement sets: epochs, batches and a harmless learning rate."""
    recipe = {
        "epochs": settings.rounds + 1,
        "batch_size": settings.batch,
        "learning_rate": LEARNING_RATE,
        "schedule": "constant",
        "warmup_epochs": 0,
    }
    return resolve({"method": method, "task": "benchmark/random", "train": recipe})


def random_split(count: int, size: int) -> Split:
    """Images (count, size, size, 3) of random pixels with random labels."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Split(images, generator.integers(0, CLASSES, count), f"random-{count}")


def now(device: torch.device) -> float:
    """Seconds of a clock, read when the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
