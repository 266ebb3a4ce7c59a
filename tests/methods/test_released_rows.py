"""Compare the YAML of BlackVIP and of the methods beside it in its paper with the tables of the released code."""

from __future__ import annotations

import pytest

from petlbench.config.files import load_yaml
from petlbench.config.resolve import RunConfig
from petlbench.optim.spsa import SPSAConfig
from tests.words import resolve


@pytest.mark.parametrize("method", ["bar", "vp_spsa"])
@pytest.mark.parametrize("task", ["mini/digits", "blackvip16/eurosat", "folder:none"])
def test_estimates_from_close_losses_are_made_of_exact_scores(method: str, task: str) -> None:
    assert resolve([f"method={method}", f"task={task}"]).precision == "fp32"


@pytest.mark.parametrize("method", ["bar", "blackvip", "vp_spsa"])
@pytest.mark.parametrize("task", ["mini/digits", "blackvip16/eurosat", "folder:none"])
def test_one_epoch_is_enough_for_methods_that_do_not_warm_up(method: str, task: str) -> None:
    assert resolve([f"method={method}", f"task={task}", "train.epochs=1"]).train.epochs == 1


# epochs of black-box methods / of vp | BlackVIP: beta, gamma, c, p_eps, alpha, a | VP-SPSA: beta, a, c, alpha | BAR: rate at first, at last | VP: rate
TABLE = """
caltech101        5000 1000 | 0.9  0.2 0.005 0.2 0.4 0.01 | 0.3 20 0.01  0.4 | 10 0.1  | 40
oxford_pets       5000 1000 | 0.9  0.1 0.01  1.0 0.4 0.01 | 0.3 10 0.005 0.4 | 10 0.1  | 40
stanford_cars     2500 1000 | 0.9  0.2 0.01  0.3 0.4 0.01 | 0.5 10 0.01  0.4 | 10 0.1  | 5
oxford_flowers    5000 1000 | 0.5  0.2 0.02  1.0 0.4 0.01 | 0.3 10 0.005 0.4 | 5  0.1  | 40
food101           5000 1000 | 0.9  0.1 0.01  0.3 0.4 0.01 | 0.3 10 0.01  0.4 | 5  0.1  | 40
fgvc_aircraft     5000 1000 | 0.3  0.1 0.01  0.5 0.4 0.01 | 0.3 10 0.01  0.4 | 10 0.1  | 40
sun397            1000 500  | 0.5  0.1 0.01  1.0 0.4 0.01 | 0.3 20 0.01  0.4 | 5  0.01 | 40
dtd               5000 1000 | 0.7  0.2 0.01  0.3 0.4 0.01 | 0.9 10 0.01  0.4 | 5  0.1  | 40
svhn              5000 1000 | 0.9  0.2 0.005 1.0 0.4 0.01 | 0.9 10 0.01  0.4 | 5  0.1  | 40
eurosat           5000 1000 | 0.9  0.2 0.005 0.4 0.4 0.01 | 0.3 10 0.005 0.4 | 5  0.01 | 40
resisc45          5000 1000 | 0.95 0.1 0.01  0.3 0.4 0.01 | 0.3 10 0.01  0.4 | 5  0.01 | 40
clevr_count       5000 1000 | 0.9  0.2 0.005 1.0 0.4 0.01 | 0.9 20 0.01  0.4 | 10 0.1  | 40
ucf101            5000 1000 | 0.9  0.1 0.01  0.3 0.4 0.01 | 0.3 20 0.01  0.4 | 5  0.01 | 40
imagenet          500  400  | 0.9  0.2 0.005 0.3 0.4 0.01 | 0.3 20 0.01  0.4 | 10 0.1  | 1
biased_mnist_easy 5000 1000 | 0.9  0.1 0.01  1.0 0.4 0.01 | 0.9 10 0.005 0.4 | 5  0.1  | 40
biased_mnist_hard 5000 1000 | 0.9  0.1 0.01  1.0 0.4 0.01 | 0.9 10 0.005 0.4 | 5  0.1  | 40
loc_mnist_1_1     5000 1000 | 0.9  0.1 0.005 1.0 0.5 0.01 | 0.9 10 0.01  0.5 | 5  0.5  | 10
loc_mnist_1_4     5000 1000 | 0.95 0.1 0.01  1.0 0.5 0.02 | 0.9 10 0.01  0.5 | 5  0.01 | 10
"""
ROWS = {
    line.split()[0]: [list(map(float, part.split())) for part in line.partition(" ")[2].split("|")] for line in TABLE.strip().splitlines()
}


def resolved(method: str, dataset: str) -> RunConfig:
    config = resolve([f"method={method}", f"task=blackvip16/{dataset}"])
    assert config.hyperparameters == f"task blackvip16/{dataset}"
    return config


def spsa_gains(spsa: SPSAConfig) -> list[float]:
    """Return beta, gamma, c, alpha and a; check the settings that all runs share."""
    assert (spsa.step_offset, spsa.repeats, spsa.one_sided) == (1.0, 5, False)
    return [spsa.momentum, spsa.perturbation_decay, spsa.perturbation, spsa.step_decay, spsa.step]


@pytest.mark.parametrize("dataset", ROWS)
def test_blackvip_has_the_released_row(dataset: str) -> None:
    (epochs, _), (momentum, perturbation_decay, perturbation, strength, step_decay, step), *_ = ROWS[dataset]
    config = resolved("blackvip", dataset)
    assert spsa_gains(config.method_config.spsa) == [momentum, perturbation_decay, perturbation, step_decay, step]
    assert config.method_config.p_eps == strength
    assert (config.train.epochs, config.train.batch_size, config.train.drop_last) == (epochs, 128, True)


@pytest.mark.parametrize("dataset", ROWS)
def test_vp_spsa_has_the_released_row(dataset: str) -> None:
    (epochs, _), _, (momentum, step, perturbation, step_decay), *_ = ROWS[dataset]
    config = resolved("vp_spsa", dataset)
    assert spsa_gains(config.method_config.spsa) == [momentum, 0.1, perturbation, step_decay, step]
    assert config.method_config.spread == 1.0
    assert (config.train.epochs, config.train.batch_size, config.train.drop_last) == (epochs, 128, True)


@pytest.mark.parametrize("dataset", ROWS)
def test_bar_has_the_released_row(dataset: str) -> None:
    (epochs, _), _, _, rates, _ = ROWS[dataset]
    config = resolved("bar", dataset)
    settings = config.method_config
    assert [settings.learning_rate, settings.min_learning_rate] == rates
    assert (settings.focus, settings.rgf.directions, settings.rgf.smoothing) == (2.0, 5, 0.01)
    assert (config.train.epochs, config.train.batch_size, config.train.drop_last) == (epochs, 128, True)


@pytest.mark.parametrize("dataset", ROWS)
def test_vp_has_the_released_row(dataset: str) -> None:
    (_, epochs), *_, (rate,) = ROWS[dataset]
    config = resolved("vp", dataset)
    train = config.train
    assert (train.epochs, train.learning_rate, train.batch_size, train.drop_last) == (epochs, rate, 64, True)
    assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 0.0)
    assert (train.schedule, train.warmup_epochs, train.warmup_learning_rate) == ("dassl_cosine", 100, 0.1)
    assert config.method_config.spread == 1.0


@pytest.mark.parametrize("method", ["blackvip", "vp_spsa", "bar", "vp"])
def test_no_other_dataset_has_a_row(method: str) -> None:
    assert {f"blackvip16/{dataset}" for dataset in ROWS} == load_yaml("methods", method)["tasks"].keys()
