"""Match methods with backbones: the traits of a backbone, and the one rule that a plan, a run and a learner follow."""

from __future__ import annotations

from dataclasses import dataclass

from petlbench.access.endpoint import ModelFacts, Output
from petlbench.access.rungs import Access
from petlbench.config.settings import QueryConfig
from petlbench.method import Method, QueryMethod


@dataclass(frozen=True)
class Traits:
    """The features that a method may need and only some backbones have. A family can tell them without loading weights."""

    name: str
    access: Access  # the highest rung it grants
    has_text: bool  # whether it can score classes described by texts
    takes_tokens: bool  # whether it takes extra tokens
    own_classes: int | None = None  # outputs of the classifier among its weights; None: there is no classifier
    output: Output = Output.LOGITS  # the most that its answers give

    @classmethod
    def of(cls, facts: ModelFacts, access: Access) -> Traits:
        """The traits of a loaded or served model."""
        return cls(facts.name, access, facts.has_text, facts.token_width is not None, facts.own_classes, facts.output)


def reason_against(method: Method, traits: Traits, query_config: QueryConfig, class_count: int | None = None) -> str | None:
    """Return why a method cannot run on a backbone, as a phrase that follows the method's name; None if it can. ``class_count``: of the task, if known."""
    if method.access > traits.access:
        given = {
            Access.FEATURES: "a remote model gives SCORES, CONTEXT and FEATURES",
            Access.GRADIENTS: f"the image tower of {traits.name} is not a timm VisionTransformer with plain blocks and can only be queried",
        }
        return f"needs access {method.access.name}; {given[traits.access]}"
    return _reason_against_queries(method, traits, query_config, class_count) if isinstance(method, QueryMethod) else None


def _reason_against_queries(method: QueryMethod, traits: Traits, query_config: QueryConfig, class_count: int | None) -> str | None:
    if traits.access <= Access.FEATURES and (reason := method.local_only_reason):
        return f"needs a model in this process: {reason}"
    if method.needs_tokens and not traits.takes_tokens:
        return f"needs extra tokens, which {traits.name} does not take; choose a ViT that is read at its class token"
    return None if method.access is Access.FEATURES else _reason_against_scoring(method, traits, query_config, class_count)


def _reason_against_scoring(method: QueryMethod, traits: Traits, query_config: QueryConfig, class_count: int | None) -> str | None:
    if not traits.has_text:
        if method.access is Access.GRADIENTS and not method.requires_class_scores:
            return None
        if traits.own_classes is None or not method.uses_classifier_outputs:
            return f"needs class scores, but {traits.name} has no text tower; choose a vision-language backbone"
        if class_count is not None and class_count > traits.own_classes:
            return f"needs {class_count} outputs of the model's own classifier; {traits.name} has {traits.own_classes}, choose another backbone"
    needed = method.required_output()
    for given, where in ((Output(query_config.output), "access.output"), (traits.output, traits.name)):
        if needed > given:
            return f"needs {needed.value} of the model, {where} gives {given.value} only"
    return None
