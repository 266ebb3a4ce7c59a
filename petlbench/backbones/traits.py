"""Whether a method can work on a backbone: what a backbone gives, and the one rule that a plan, a run and a learner go by."""

from __future__ import annotations

from dataclasses import dataclass

from petlbench.access.endpoint import ModelFacts, Output
from petlbench.access.rungs import Access
from petlbench.config.settings import QueryConfig
from petlbench.method import Method, QueryMethod


@dataclass(frozen=True)
class Traits:
    """What a method may need of a backbone and only some have. A family can tell without loading weights."""

    name: str
    access: Access  # the highest rung that it grants
    has_text: bool  # whether it can score classes that texts describe
    takes_tokens: bool  # whether tokens can stand behind those of an image
    own_classes: int | None = None  # outputs of a classifier that the weights come with; None: there is none
    output: Output = Output.LOGITS  # what it answers at most

    @classmethod
    def of(cls, facts: ModelFacts, access: Access) -> Traits:
        """The traits of a loaded or served model."""
        return cls(facts.name, access, facts.has_text, facts.token_width is not None, facts.own_classes, facts.output)


def reason_against(method: Method, traits: Traits, answers: QueryConfig, class_count: int | None = None) -> str | None:
    """What a method needs and does not get, to be read behind its name; None: nothing. ``class_count``: of the task, where it is known."""
    if method.access > traits.access:
        given = {
            Access.FEATURES: "a remote model gives SCORES, CONTEXT and FEATURES",
            Access.GRADIENTS: f"the image tower of {traits.name} is no timm VisionTransformer and can only be asked",
        }
        return f"needs access {method.access.name}; {given[traits.access]}"
    return _reason_against_asking(method, traits, answers, class_count) if isinstance(method, QueryMethod) else None


def _reason_against_asking(method: QueryMethod, traits: Traits, answers: QueryConfig, class_count: int | None) -> str | None:
    if traits.access <= Access.FEATURES and (reason := method.local_only_reason):
        return f"needs a model in this process: {reason}"
    if method.needs_tokens and not traits.takes_tokens:
        return f"needs tokens beside an image; {traits.name} takes none, a ViT that is read at its class token does"
    return None if method.access is Access.FEATURES else _reason_against_scoring(method, traits, answers, class_count)


def _reason_against_scoring(method: QueryMethod, traits: Traits, answers: QueryConfig, class_count: int | None) -> str | None:
    if not traits.has_text:
        if method.access is Access.GRADIENTS and not method.requires_class_scores:
            return None
        if traits.own_classes is None or not method.uses_classifier_outputs:
            return f"needs scores of classes; {traits.name} has no text tower, choose a vision-language backbone"
        if class_count is not None and class_count > traits.own_classes:
            return f"needs outputs of the model's own for {class_count} classes; {traits.name} has {traits.own_classes}, choose another backbone"
    needed = method.required_output()
    for given, where in ((Output(answers.output), "access.output"), (traits.output, traits.name)):
        if needed > given:
            return f"needs {needed.value} of the model, {where} gives {given.value} only"
    return None
