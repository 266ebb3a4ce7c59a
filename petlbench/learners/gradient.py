"""Training a method that changes the network."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from petlbench.access.border import entries, own, plain
from petlbench.backbones.backbone import Backbone
from petlbench.data.batches import Batches, TrainingData
from petlbench.data.task import TaskSpec
from petlbench.learners.base import evaluating, load_into
from petlbench.learners.cost import ImageCounter, flops_per_image
from petlbench.learners.prefix import Prefix, Suffix, fingerprints, untouched_blocks
from petlbench.method import GradientMethod
from petlbench.nn.allocation import allocation
from petlbench.optim import loop, precision

PLAN = "plan."  # prefix of the tensors that ``GradientMethod.prepare`` returned


class AdaptedModel(nn.Module):
    """A vision tower changed by a method, and a task head: (B, 3, S, S) -> (B, C)."""

    def __init__(self, vit: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.vit = vit
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.vit(images))


class GradientLearner:
    """Trains the parameters that a method has added or unfrozen in a private module tree over the backbone's frozen tensors.

    The network of a method that inspects the task first (``prepare``) exists from ``fit`` or ``load_state`` on, of others from the start.
    """

    model: AdaptedModel

    def __init__(self, method: GradientMethod, backbone: Backbone, spec: TaskSpec, device: torch.device, number_format: str) -> None:
        self.method = method
        self.device = device
        self.precision = number_format
        self._backbone = backbone
        self._classes = len(spec.class_names)
        self._frozen = {f"vit.{name}" for name in backbone.vit.state_dict()}
        self._counter = ImageCounter()
        self._untouched = 0  # blocks from the bottom that the method did not change
        self._prefix: Prefix | None = None  # during training: outputs of these blocks for the splits that every epoch reads
        self._is_built = False
        if type(method).prepare is GradientMethod.prepare:
            self._build({})

    def prepare(self, data: TrainingData) -> None:
        """Let the method inspect the task and change the network, once."""
        if self._is_built:
            return
        vit = self._private_copy(data.recipe.drop_path)
        self._counter.watch(vit)
        with torch.random.fork_rng(), torch.enable_grad():  # what is drawn here must not decide how training starts
            torch.manual_seed(self.method.seed)
            head = self.method.build_head(self._backbone.feature_width, self._classes).to(self.device)
            plan = self.method.prepare(vit, head, data)
        self._build({name: tensor.to(self.device) for name, tensor in plan.items()})

    def fit(self, data: TrainingData) -> None:
        self.prepare(data)
        recipe, vit = data.recipe, self.model.vit
        _set_drop_path(vit, recipe.drop_path)
        vit.set_grad_checkpointing(recipe.checkpoint_activations)  # type: ignore[operator]
        if recipe.compile:
            for block in vit.blocks:  # type: ignore[union-attr]
                block.compile()
        settings: dict[str, Any] = {"decays": self.method.decays, "precision": self.precision, "after_epoch": data.log_epoch}
        settings["resumable"] = data.steps
        if self._untouched and data.train.transform.augment == "none" and not recipe.drop_path:
            self._prefix = Prefix(vit, self._untouched, self.precision, data.cache_mb, (data.train, data.val))
            loop.train(self._suffix(), self._prefix[data.train], recipe, held={"prefix": self._prefix}, **settings)
            self._prefix = None
        else:
            loop.train(self.model, data.train, recipe, **settings)
        self.model.eval()

    def _private_copy(self, drop_path: float = 0.0) -> nn.Module:
        vit = self._backbone.shared_copy()
        for block in vit.blocks:  # type: ignore[union-attr]
            block.drop_path1, block.drop_path2 = DropPath(), DropPath()
        _set_drop_path(vit, drop_path)
        return vit.to(self.device)

    def _build(self, plan: dict[str, Tensor]) -> None:
        self.method.plan = plan
        vit = self._private_copy()
        before = fingerprints(vit)
        self.method.adapt(vit)
        self._untouched = untouched_blocks(before, fingerprints(vit))
        _own_the_trainable(vit, self._backbone.vit)
        if self.precision == "bf16":
            _round_the_frozen(vit, self._backbone)
        self._counter.watch(vit)
        head = self.method.build_head(self._backbone.feature_width, self._classes)
        self.model = AdaptedModel(vit, head).to(self.device).eval()
        self._is_built = True

    @torch.inference_mode()
    def predict(self, batches: Batches) -> Tensor:
        with evaluating(self.model), precision.autocast(self.precision, self.device):
            if self._prefix is not None and batches in self._prefix:
                suffix = self._suffix()
                parts = [suffix(tokens) for tokens, _ in self._prefix[batches]]
            else:
                parts = [self.model(images) for images, _ in batches.in_order()]
            return torch.cat([plain("the scores of the network", part, ("B", self._classes)) for part in parts]).cpu()

    def _suffix(self) -> Suffix:
        return Suffix(self.model.vit, self.model.head, self._untouched).train(self.model.training)

    def state(self) -> dict[str, Tensor]:
        plan = {f"{PLAN}{name}": tensor for name, tensor in self.method.plan.items()}
        return {name: own(name, tensor).detach().cpu() for name, tensor in (plan | self._learned()).items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        plan = {name.removeprefix(PLAN): tensor for name, tensor in state.items() if name.startswith(PLAN)}
        if not self._is_built:
            self._build({name: tensor.to(self.device) for name, tensor in plan.items()})
        load_into(self._learned(), {name: tensor for name, tensor in state.items() if not name.startswith(PLAN)})

    def parameter_counts(self) -> tuple[int, int]:
        return _count(self.model.vit), _count(self.model.head)

    def allocation(self) -> dict[str, int]:
        return allocation(self.model.vit)

    def images_forwarded(self) -> int:
        return self._counter.images

    def images_encoded(self) -> int:
        return 0

    def flops_per_image(self) -> float:
        counted, side = self._counter.images, self._backbone.card.input_size
        with precision.autocast(self.precision, self.device):
            flops = flops_per_image(self.model, torch.zeros(1, 3, side, side, device=self.device))
        self._counter.images = counted
        return flops

    def _learned(self) -> dict[str, Tensor]:
        """Return the trainable parameters and the buffers that the method added (a batch norm's statistics)."""
        tensors = self.model.state_dict(keep_vars=True)
        parameters = dict(self.model.named_parameters())
        return {
            name: tensor
            for name, tensor in tensors.items()
            if tensor.requires_grad or (name not in parameters and name not in self._frozen)
        }


def _set_drop_path(vit: nn.Module, rate: float) -> None:
    """Stochastic depth, from 0 in the first block to ``rate`` in the last."""
    blocks = list(vit.blocks)  # type: ignore[arg-type]
    for index, block in enumerate(blocks):
        block.drop_path1.drop_prob = block.drop_path2.drop_prob = rate * index / max(1, len(blocks) - 1)


def _round_the_frozen(vit: nn.Module, backbone: Backbone) -> None:
    """Replace frozen matrices by bf16 copies that all runs share: autocast would round them again at every use, and keep the results."""
    shared = {(p.data_ptr(), p.shape) for p in backbone.vit.parameters()}
    for module in vit.modules():
        weight = module.weight if isinstance(module, (nn.Linear, nn.Conv2d)) else None
        if weight is not None and not weight.requires_grad and (weight.data_ptr(), weight.shape) in shared:
            weight.data = backbone.bf16_copy(weight)


def _own_the_trainable(vit: nn.Module, frozen: nn.Module) -> None:
    """Give every unfrozen parameter its own storage, so that training cannot change the shared backbone."""
    shared = {parameter.data_ptr() for parameter in frozen.parameters()}
    for parameter in vit.parameters():
        if parameter.requires_grad and parameter.data_ptr() in shared:
            parameter.data = parameter.data.clone()


def _count(module: nn.Module) -> int:
    return entries(p for p in module.parameters() if p.requires_grad)
