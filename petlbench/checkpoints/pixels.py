"""Export learned tokens as patches that a model's patch embedding turns into these tokens, and evaluate both.

Letters in shapes: B images, K prompts of an image, N tokens of a library, P patch side, S input size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petlbench.access.endpoint import ClassTexts
from petlbench.access.handle import QueryModel, grant
from petlbench.access.meter import Meter
from petlbench.access.rungs import Access
from petlbench.backbones.backbone import Backbone
from petlbench.checkpoints.evaluate import check_classes, check_weights, reopened
from petlbench.checkpoints.file import Checkpoint
from petlbench.checkpoints.pixels_file import Artifact, Description, tensors_document, write_artifact
from petlbench.config.resolve import RunConfig, load_method
from petlbench.data.batches import Batches
from petlbench.data.content import located
from petlbench.data.load import normalisation
from petlbench.errors import CheckpointError
from petlbench.learners import QueryLearner, load_into
from petlbench.learners.scores import accuracy, mask_classes
from petlbench.learners.setting import EVAL_BATCH, open_backbone, open_task
from petlbench.method import Deployable, QueryMethod
from petlbench.nn.inversion import Normalisation, invert
from petlbench.optim.device import pick_device
from petlbench.optim.precision import choose
from petlbench.remote.client import RemoteBackbone

CPU = torch.device("cpu")
SUM_TOLERANCE = 1e-4  # of the sum of mixture weights from one
VARIANTS: dict[str, Callable[[Normalisation, Tensor], Tensor]] = {  # of the patches that are sent
    "pixels": lambda _, patches: patches,
    "clipped": Normalisation.clipped,
    "rounded": Normalisation.rounded,
}


def export_artifact(saved: Checkpoint, folder: Path, places: Mapping[str, Any] | None = None) -> Description:
    """Write a checkpoint in a form that needs pixels only. The inversion needs the model's patch embedding, so the model must be in this process.

    ``places``: settings that say where the task and the files of the run lie now. CheckpointError when there is no such form.
    """
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a directory")
    config = located(saved.config, {**(places or {}), "precision": "fp32"})
    with reopened(saved, config, CPU) as (learner, backbone):
        if not (isinstance(learner, QueryLearner) and isinstance(backbone, Backbone)):
            raise CheckpointError(f"{backbone.name} is behind HTTP; the export needs its patch embedding, so a backbone in this process")
        method, spec = learner.method, learner.spec
        deployed = method.deployable()
        if deployed is None:
            raise CheckpointError(f"method {config.method} has no learned tokens to export as pixels")
        facts = backbone.facts
        if facts.patch_size is None:
            raise CheckpointError(f"{facts.name} takes no extra patches; choose a ViT that is read at its class token")
        prompts = _checked_mixture(deployed, facts.input_size, config.method)
        embedding = backbone.vit.patch_embed.proj  # type: ignore[union-attr]
        inversion = invert(embedding.weight, embedding.bias, deployed.library)  # type: ignore[union-attr, arg-type]
        mean, std = normalisation(config.protocol, facts.mean, facts.std)
        document, checksum = tensors_document(learner.state(), inversion.patches)
        about = Description(
            config=saved.config,
            backbone=facts.name,
            backbone_sha256=saved.backbone_sha256,
            input_size=facts.input_size,
            patch_size=facts.patch_size,
            mean=mean,  # type: ignore[arg-type]
            std=std,  # type: ignore[arg-type]
            prompts=prompts,
            library_size=len(deployed.library),
            token_width=deployed.library.shape[1],
            reads="scores" if deployed.read is None else "features",
            class_names=spec.class_names,
            captions=spec.prompts(method.templates(spec.templates)) if deployed.read is None else (),
            is_exact=inversion.is_exact,
            largest_residual=float(inversion.residual.max()),
            raw_values_outside=float(Normalisation(mean, std).outside(inversion.patches).float().mean()),
            tensors_sha256=checksum,
        )
    write_artifact(folder, about, document)
    return about


@torch.no_grad()
def _checked_mixture(deployed: Deployable, size: int, name: str) -> int:
    """Return K. CheckpointError when a mixture of patches is not the same mixture of tokens."""
    weights = deployed.coefficients(torch.zeros(1, 3, size, size))
    total = weights.sum(dim=-1)
    if float((total - 1).abs().max()) > SUM_TOLERANCE:
        raise CheckpointError(
            f"method {name} mixes tokens with weights that sum to {float(total.flatten()[0]):.2f} and not to one, so that the same mixture of "
            "patches is not embedded to the same mixture of tokens; train with weights that do, such as a softmax"
        )
    return weights.shape[1]


def evaluate_artifact(artifact: Artifact, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the accuracy (percent) of an artifact on the test split for each variant of its patches; with a model in this process also the accuracy
    with the learned tokens, and the distance of the patches' tokens from these."""
    about = artifact.about
    config = located(about.config, settings)
    device = pick_device(config.execution.device)
    if config.execution.threads:
        torch.set_num_threads(config.execution.threads)
    with open_backbone(config, device) as (backbone, checksum):
        check_weights(about.backbone_sha256, checksum, backbone.name)
        return _evaluated(artifact, config, backbone, device)


def _evaluated(artifact: Artifact, config: RunConfig, backbone: Backbone | RemoteBackbone, device: torch.device) -> dict[str, Any]:
    about = artifact.about
    task = open_task(config, backbone)
    check_classes("artifact", about.class_names, task.spec.class_names, config.task)
    test = Batches(task.scored, task.transform, EVAL_BATCH, device)

    def percent(scores: Tensor) -> float:
        return accuracy(mask_classes(scores.cpu(), task.scored_labels), test.labels)

    found: dict[str, Any] = {"task": config.task, "method": config.method, "backbone": backbone.name, "samples": test.image_count}
    with _query_model(artifact, config, backbone, device) as (model, deployed):
        variants = PixelVariants(artifact, model, deployed, backbone if isinstance(backbone, Backbone) else None, device)
        for images, _ in test.in_order():
            variants.update(images)
    found["accuracy"] = {variant: percent(torch.cat(scores)) for variant, scores in variants.scores.items()}
    found |= {"raw_values_outside": variants.raw_values_outside, "is_exact": about.is_exact, "largest_residual": about.largest_residual}
    if isinstance(backbone, Backbone):
        saved = Checkpoint(artifact.learned, about.config, about.backbone_sha256, about.class_names)
        with reopened(saved, config, device) as (learner, _):
            found["accuracy"]["latent"] = percent(learner.predict(test))
        found["difference"] = found["accuracy"]["pixels"] - found["accuracy"]["latent"]
        found |= {"largest_token_error": variants.largest_error, "relative_token_error": variants.relative_errors}
    return found


@contextmanager
def _query_model(
    artifact: Artifact, config: RunConfig, backbone: Backbone | RemoteBackbone, device: torch.device
) -> Iterator[tuple[QueryModel, Deployable]]:
    """Yield a model that is queried with pixels only, and the tokens to append."""
    kind, about = load_method(config.method)[0], artifact.about
    assert issubclass(kind, QueryMethod), "as when it was exported"
    method = kind(config.method_config, config.seed)
    method.number_format = choose(config.precision, device, backbone.parameter_count)
    endpoint = backbone.endpoint(device, method.number_format)
    rung = Access.SCORES if about.reads == "scores" else Access.FEATURES
    with grant(rung, endpoint, about.class_names, ClassTexts(about.captions), Meter(phase="test"), config.access) as model:
        method.build(model)
        load_into(method.state_dict(keep_vars=True), artifact.learned)
        deployed = method.to(device).eval().deployable()
        assert deployed is not None, "as when it was exported"
        yield model, deployed


class PixelVariants:
    """Queries a model with every variant of the patches, and measures the errors of their tokens."""

    def __init__(
        self, artifact: Artifact, model: QueryModel, deployed: Deployable, backbone: Backbone | None, device: torch.device
    ) -> None:
        self._normalisation = Normalisation(artifact.about.mean, artifact.about.std)
        self._patches = artifact.patches.to(device)
        self._model, self._deployed, self._backbone = model, deployed, backbone
        self.scores: dict[str, list[Tensor]] = {variant: [] for variant in VARIANTS}  # (B, C)
        self.largest_error = 0.0  # of an entry of a token, patches as they are
        self._errors: dict[str, list[Tensor]] = {variant: [] for variant in VARIANTS}  # (B, K): |token of the patch - token| / |token|
        self._outside: list[Tensor] = []

    @torch.no_grad()
    def update(self, images: Tensor) -> None:
        """Query images (B, 3, S, S)."""
        weights = self._deployed.coefficients(images)
        patches = torch.tensordot(weights, self._patches, dims=1)  # (B, K, 3, P, P)
        self._outside.append(self._normalisation.outside(patches).float().mean(dim=(1, 2, 3, 4)))
        for variant, kept_of in VARIANTS.items():
            kept = kept_of(self._normalisation, patches)
            self.scores[variant].append(self._query(images, kept))
            if self._backbone is not None:
                tokens = torch.tensordot(weights, self._deployed.library, dims=1)
                error = self._backbone.embed_patches(kept) - tokens
                self._errors[variant].append(torch.linalg.vector_norm(error, dim=-1) / torch.linalg.vector_norm(tokens, dim=-1))
                if variant == "pixels":
                    self.largest_error = max(self.largest_error, float(error.abs().max()))

    @property
    def raw_values_outside(self) -> float:
        """Share of the patches' raw values outside the range of an image file."""
        return float(torch.cat(self._outside).mean())

    @property
    def relative_errors(self) -> dict[str, float]:
        """Relative token error of each variant, mean over images and tokens."""
        return {variant: float(torch.cat(errors).mean()) for variant, errors in self._errors.items()}

    def _query(self, images: Tensor, patches: Tensor) -> Tensor:
        if self._deployed.read is None:
            return self._model.scores(images, patches=patches)
        return self._deployed.read(self._model.features(images, patches=patches))
