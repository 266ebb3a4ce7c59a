"""CraFT: collaborative fine-tuning of black-box vision-language models (Wang et al. 2024, arXiv 2402.04050); black-box tuning (BBT) is a part of it.

Follows the released code (github.com/mrflogs/CraFT, commit 1a4c251). Letters in shapes: N training images, B images, C classes, P candidates of a
population, n context words, W width of their embeddings, d intrinsic dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from petlbench import Access, QueryMethod, QueryModel, TrainingData, register_method
from petlbench.access.endpoint import Output
from petlbench.optim import derived_seed
from petlbench.optim.evolution import CMAES, Strategy, Vectors
from petlbench.optim.loop import Epoch
from petlbench.optim.steps import Held

from .refinement import Refinement, fitness, train_epoch
from .shots import Shots

MAX_ENTRIES = 2**24  # of a tensor of logits or hidden units while a population is judged: 64 MB


@dataclass
class CraftConfig:
    generate: bool = True  # search for a prompt context; false: keep the template's own words
    refine: Literal["mlp", "none"] = "mlp"  # mlp: train a network on the logits; none: use them as they are
    collaborate: bool = True  # true: search and network take turns; false: the whole search with weight=0, then the network
    intrinsic_dim: int = 512  # d: the search is over z in R^d, the context is p0 + A z
    population: int = 40  # candidates per iteration of the search
    budget: int = 8000  # most prompt evaluations: the search takes budget // population iterations, but at most train.epochs
    sigma: float = 1.0  # initial step size of the search
    bound: float | None = 5.0  # z stays in [-bound, bound]; null: unbounded
    # standard deviation of the entries of A; null: uniform as torch's linear layers start (ImageNet scripts)
    projection_std: float | None = 0.2
    weight: float = 0.1  # lambda, weight of both consistency terms
    cutoff: int = 4  # the network's consistency term is on in the first 1 / cutoff of the iterations
    hidden: int = 256  # H, hidden width of the network
    head_learning_rate: float = 1e-3  # constant learning rate of the network, which Adam trains
    # logits that the network is trained on: those that the model returns, or those of image embeddings that are not normalised (released code)
    head_input: Literal["api_logits", "released_unnormalised"] = "api_logits"
    # context after an iteration: mean of one more population, best candidate so far (ImageNet scripts), or mean of the search distribution
    context_from: Literal["sample_mean", "best", "mean"] = "sample_mean"
    template: str | None = "a photo of a {}."  # caption whose words before {} the search replaces; null: the task's first template

    def __post_init__(self) -> None:
        for name, least in (("intrinsic_dim", 1), ("population", 3), ("cutoff", 1), ("hidden", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
        _check_template(self.template)
        for name in ("sigma", "bound", "projection_std", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be > 0, got {value}")
        if self.budget < self.population:
            raise ValueError(f"budget must hold a population of {self.population} prompt evaluations at least, got {self.budget}")
        if self.weight < 0:
            raise ValueError(f"weight must be >= 0, got {self.weight}")
        if self.refine == "none" and not self.generate:
            raise ValueError("refine=none with generate=false leaves nothing to learn; turn one of them on")
        if self.refine == "none" and self.weight:
            raise ValueError(f"weight couples the context to the network; with refine=none it must be 0, got {self.weight}")

    def turns(self, epochs: int) -> list[tuple[bool, bool]]:
        """Return for each turn whether to search and whether to train the network for an epoch; at most ``epochs`` turns.

        With two phases and an odd number of epochs the first phase gets one turn more: with a single epoch there is no network.
        """
        both = (self.generate, self.refine == "mlp")
        phases = [both] if self.collaborate or not all(both) else [(True, False), (False, True)]
        iterations = self.budget // self.population
        return [phase for place, phase in enumerate(phases) for _ in range(min(iterations, -(-(epochs - place) // len(phases))))]

    def weight_in(self, epoch: int, epochs: int) -> float:
        """lambda_t in an epoch of the network, counted from 0, of so many in all: on in the first 1 / cutoff of them.

        These are the epochs at whose end budget // cutoff prompts have been evaluated at most, with the budget that ``epochs`` leaves.
        """
        return self.weight if epoch < epochs // self.cutoff else 0.0


def _check_template(template: str | None) -> None:
    """ValueError when there are no words to replace, or not one place for the class name. ``None`` is checked with the task's templates."""
    if template is None:
        return
    words, found, rest = template.partition("{}")
    if not (found and words.strip()) or set("{}") & set(words + rest):
        raise ValueError(f"template must have words, which are what is learned, and then one {{}} for the class name, got {template!r}")


@register_method("craft", CraftConfig, cite="arXiv:2402.04050")
class Craft(QueryMethod):
    """Refined logits Y_O = Y_I + net(Y_I), with Y_I the model's logits for the prompt context p0 + A z.

    In turns, CMA-ES takes a step on z, for which it needs answers only (``fitness``), and Adam an epoch on the network
    (``refinement_loss``), whose gradients end at the answers.
    """

    access = Access.CONTEXT
    output = Output.LOGITS

    context: Tensor  # (n, W): a parameter where it is searched for, and so is counted
    net: Refinement | None

    @property
    def local_only_reason(self) -> str | None:
        is_released = self.config.head_input == "released_unnormalised"
        return "head_input=released_unnormalised learns on scores of image embeddings of any length" if is_released else None

    def templates(self, of_task: tuple[str, ...]) -> tuple[str, ...]:
        return of_task[:1] if self.config.template is None else (self.config.template,)

    def build(self, model: QueryModel) -> None:
        if self.config.generate:
            self.context = nn.Parameter(model.context, requires_grad=False)
        else:
            self.register_buffer("context", model.context)
        self.net = Refinement(len(model.class_names), self.config.hidden) if self.config.refine == "mlp" else None

    def fit(self, model: QueryModel, data: TrainingData) -> None:
        config = self.config
        search = CMAES(config.intrinsic_dim, config.sigma, config.population, config.bound, self.seed)
        self.tune(model, data, search, self.draw_projection())

    def predict(self, model: QueryModel, images: Tensor) -> Tensor:
        """Y_O, or Y_I as long as the network has not learned: a budget may end before its first step."""
        logits = model.context_scores(images, self.context[None])[0]
        return self.refined(logits) if self.net is not None and self.net.has_learned else logits

    def refined(self, logits: Tensor) -> Tensor:
        """Y_O of the logits Y_I (..., C), with the network as it is: the search hears of it from the start (released code)."""
        return logits if self.net is None else logits + self.net(logits)

    def draw_projection(self) -> Tensor:
        """A (n * W, d). A component of A z spreads by about std * sigma * sqrt(d), whatever the size of the word embeddings."""
        dimension, std = self.config.intrinsic_dim, self.config.projection_std
        generator = torch.Generator().manual_seed(derived_seed("projection", self.seed))
        projection = torch.empty(self.context.numel(), dimension)
        if std is None:
            projection.uniform_(-(dimension**-0.5), dimension**-0.5, generator=generator)
        else:
            projection.normal_(0.0, std, generator=generator)
        return projection.to(self.context.device)

    def tune(self, model: QueryModel, data: TrainingData, search: Strategy, projection: Tensor) -> None:
        """All of training, with a given search over z and a given A (n * W, d)."""
        config, shots, contexts = self.config, Shots(model, data), Contexts(self.context.clone(), projection)
        optimizer = None if self.net is None else torch.optim.Adam(self.net.parameters(), lr=config.head_learning_rate, fused=True)
        turns = config.turns(data.recipe.epochs)
        epochs = sum(refines for _, refines in turns)  # of the network
        done = torch.tensor(0)  # of them
        if config.generate or data.train.is_deterministic:
            shots.upload()
        held: dict[str, Held] = {"context": self.context, "search": search, "shots": shots, "done": done}
        if self.net is not None and optimizer is not None:
            held |= {"net": self.net, "optimizer": optimizer}
        for turn in data.steps.epochs(len(turns), data.train, **held):
            searches, refines = turns[turn.number]
            if searches and search.stopped:
                continue
            loss = self._search(search, shots, contexts, config.weight if refines else 0.0) if searches else 0.0
            if refines and optimizer is not None:
                loss = self._refine(optimizer, shots, config.weight_in(int(done), epochs))
                done += 1
            data.log_epoch(Epoch(epoch=turn.number, loss=loss, learning_rate=config.head_learning_rate if refines else 0.0))

    @torch.no_grad()
    def _search(self, search: Strategy, shots: Shots, contexts: Contexts, weight: float) -> float:
        """A step of the search and the context that follows from it. The lowest fitness of the population."""
        candidates = search.ask()
        judged = contexts(candidates).split(max(1, MAX_ENTRIES // (shots.count * max(shots.class_count, self.config.hidden))))
        values = []
        for part in judged:
            logits = shots.scores(part)
            values.append(fitness(logits, shots.labels, self.refined(logits) if weight else None, weight))
        found = torch.cat(values).tolist()
        search.tell(candidates, found)
        chosen = {"sample_mean": search.ask, "best": lambda: search.best[None], "mean": lambda: search.mean[None]}[self.config.context_from]
        self.context.copy_(contexts(chosen()).mean(dim=0))
        return min(found)

    def _refine(self, optimizer: torch.optim.Optimizer, shots: Shots, weight: float) -> float:
        """An epoch of the network. The mean loss of its steps."""
        assert self.net is not None
        answers = shots.epoch(self.context, normalised=self.config.head_input == "api_logits")
        return train_epoch(self.net, optimizer, answers, weight).mean().item()


class Contexts:
    """z to prompt contexts p0 + A z, with p0 (n, W) the embeddings of the template's own words."""

    def __init__(self, initial: Tensor, projection: Tensor) -> None:
        self.initial = initial
        self.projection = projection  # (n * W, d)

    def __call__(self, z: Vectors) -> Tensor:
        """(P, d) to (P, n, W), row by row."""
        offsets = torch.from_numpy(z).to(self.projection) @ self.projection.T
        return self.initial + offsets.view(len(z), *self.initial.shape)
