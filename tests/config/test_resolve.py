"""Resolve defaults, YAML and words into one strict configuration with an identity."""

from __future__ import annotations

import dataclasses
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlbench.config.executor import split_choice
from petlbench.config.files import ConfigPackage
from petlbench.config.identity import run_id
from petlbench.config.resolve import RunConfig, load_method, method_names, restore
from petlbench.config.settings import BackboneChoice, Budget, Execution, Limits, Protocol, QueryConfig, Train
from petlbench.errors import ConfigError, PetlbenchError
from petlbench.registry import METHODS
from tests.words import resolve

RUN = ("method=lora", "task=mini/digits")


def configured(*words: str) -> RunConfig:
    return resolve([*RUN, *words])


def message(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configs/ folder in place of the shipped one."""
    for folder in ("methods", "suites", "recipes", "backbones"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr("petlbench.config.files.packages", lambda: (ConfigPackage(tmp_path, "configs/"),))
    return tmp_path


@pytest.mark.parametrize("layers", range(9))
def test_a_later_layer_wins(configs: Path, layers: int) -> None:
    """Defaults < suite < method < its part for the suite < for the task < recipe < its part for the suite < for the task < command line."""
    parts = "train: {{epochs: {}}}", "suites: {{mini: {{train: {{epochs: {}}}}}}}", "tasks: {{mini/digits: {{train: {{epochs: {}}}}}}}"
    texts = [part.format(epochs) for epochs, part in enumerate((parts[0], *parts, *parts), start=21)][:layers]
    (configs / "suites" / "mini.yaml").write_text("\n".join(["tasks: [mini/digits]", *texts[:1]]))
    (configs / "methods" / "lora.yaml").write_text("\n".join(texts[1:4] or ["{}"]))
    (configs / "recipes" / "paper.yaml").write_text("\n".join(["title: A paper", *texts[4:7]]))
    words = ["train.epochs=28"] if layers == 8 else []
    assert configured("recipe=paper", *words).train.epochs == (20 + layers if layers else Train.epochs)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["task=mini/digits"], "task mini/digits"),
        (["task=mini/count"], "suite mini"),
        (["task=vtab/dtd"], "default"),
        (["task=mini/digits", "recipe=paper"], "recipe paper"),
    ],
)
def test_the_configuration_says_which_layer_its_hyperparameters_come_from(configs: Path, words: list[str], expected: str) -> None:
    (configs / "methods" / "lora.yaml").write_text("suites: {mini: {}}\ntasks: {mini/digits: {}}")
    (configs / "recipes" / "paper.yaml").write_text("title: A paper")
    assert resolve(["method=lora", *words]).hyperparameters == expected


def test_a_preset_is_its_plugin_under_a_name_of_its_own() -> None:
    config = resolve(["method=vpt_shallow", "task=mini/digits"])
    assert (config.method, config.plugin, config.method_config.deep) == ("vpt_shallow", "vpt", False)


def test_a_plugin_without_a_file_in_configs_runs_on_its_defaults(configs: Path) -> None:
    assert configured().method_config == load_method("lora")[0].Config()


def test_a_broken_file_in_configs_is_named(configs: Path) -> None:
    (configs / "methods" / "lora.yaml").write_text("train: {epochs: [")
    assert "configs/methods/lora.yaml" in message(*RUN)


def test_a_wrong_key_in_a_file_is_reported_with_the_file(configs: Path) -> None:
    (configs / "methods" / "lora.yaml").write_text("train: {epoch: 3}")
    assert message(*RUN).endswith("(configs/methods/lora.yaml)")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("method=lroa", "task=mini/digits"), "no method 'lroa'. Did you mean 'lora'? (petlbench ls methods lists all)"),
        ((*RUN, "recipe=noha"), "no recipe 'noha'. Did you mean 'noah'? (petlbench ls recipes lists all)"),
        ((*RUN, "recip=noah"), "unknown key 'recip'. Did you mean 'recipe'? (command line)"),
        ((*RUN, "trian.epochs=3"), "unknown key 'trian'. Did you mean 'train'? (command line)"),
        ((*RUN, "sed=3"), "unknown key 'sed'. Did you mean 'seed'? (command line)"),
        ((*RUN, "thread=3"), "unknown key 'thread'. Did you mean 'threads'? (command line)"),
        ((*RUN, "method.rnk=3"), "unknown key 'method.rnk'. Did you mean 'rank'? Known: rank, scale, targets, dropout (command line)"),
        ((*RUN, "method.rank=eight"), "method.rank must be an int, got 'eight' (command line)"),
        ((*RUN, "method.rank=4.7"), "method.rank must be an int, got 4.7 (command line)"),
        ((*RUN, "method.rank=true"), "method.rank must be an int, got True (command line)"),
        ((*RUN, "method.rank=0"), "method.rank must be an int >= 1, got 0"),
        ((*RUN, "method.targets=q"), "method.targets must be a list such as [a,b], got 'q' (command line)"),
        ((*RUN, "method.targets={a: 1}"), "method.targets must be a list such as [a,b], got '{a: 1}' (command line)"),
        ((*RUN, "train.epochs=null"), "train.epochs must be an int, got None (command line)"),
        ((*RUN, "train.learning_rate=fast"), "train.learning_rate must be a number, got 'fast' (command line)"),
        ((*RUN, "train.learning_rate=nan"), "train.learning_rate must be a finite number, got 'nan' (command line)"),
        ((*RUN, "train.learning_rate=-1"), "train.learning_rate must be > 0, got -1.0"),
        ((*RUN, "train.label_smoothing=1"), "train.label_smoothing must be < 1, got 1.0"),
        (
            (*RUN, "train.min_learning_rate=1", "train.learning_rate=0.5"),
            "train.min_learning_rate must lie between 0 and the highest rate, 0.5, got 1.0",
        ),
        (
            (*RUN, "train.warmup_learning_rate=1", "train.learning_rate=2", "train.scale_learning_rate=true", "train.batch_size=64"),
            "train.warmup_learning_rate must lie between 0 and the highest rate, 0.5, got 1.0",
        ),
        ((*RUN, "train.schedule=timm_cosine"), "train: schedule=timm_cosine changes once per epoch; set train.schedule_step=epoch"),
        ((*RUN, "train.drop_path=1"), "train.drop_path must lie in [0, 1), got 1.0"),
        ((*RUN, "train.compile=maybe"), "train.compile must be true or false, got 'maybe' (command line)"),
        ((*RUN, "train.optimizer=adam"), "train.optimizer must be one of adamw, sgd, got 'adam' (command line)"),
        ((*RUN, "protocol.shots=few"), "protocol.shots must be an int or null, got 'few' (command line)"),
        ((*RUN, "protocol.shots=0"), "protocol.shots must be an int >= 1 or null, got 0"),
        ((*RUN, "protocol.resize=0"), "protocol.resize must be an int >= 1 or null, got 0"),
        ((*RUN, "protocol.resize=100000"), "protocol.resize must be an int from 1 to 4096 or null, got 100000"),
        ((*RUN, "protocol.select_every=0"), "protocol.select_every must be an int >= 1, got 0"),
        ((*RUN, "cache_mb=-1"), "cache_mb must be an int >= 0, got -1"),
        ((*RUN, "budget.test.images=-1"), "budget.test: images must be an int >= 0 or null, got -1"),
        ((*RUN, "budget.images=-1"), "budget.images must be an int >= 0 or null, got -1"),
        ((*RUN, "threads=two"), "threads must be an int or null, got 'two' (command line)"),
        ((*RUN, "threads=0"), "threads must be an int >= 1 or null, got 0"),
        ((*RUN, "train=5"), "train is a section; set what is in it, such as train.epochs=…, got 5 (command line)"),
        ((*RUN, "seed=-1"), "seed must be an int in [0, 2**32), got -1"),
        ((*RUN, "precision=fp16"), "precision must be one of auto, fp32, bf16, got 'fp16' (command line)"),
        (("task=mini/digits", "method.rank=3"), "method=NAME is missing (petlbench ls methods lists all)"),
        (("method=lora",), "task=NAME is missing (petlbench ls tasks lists all)"),
        ((*RUN, "epochs"), "'epochs' is not of the form key=value, such as method=lora or train.epochs=20"),
        ((*RUN, "--seed=3"), "'--seed=3' is not of the form key=value, such as method=lora or train.epochs=20"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key_and_the_remedy(words: tuple[str, ...], expected: str) -> None:
    assert message(*words) == expected


KEYS = st.sampled_from(
    ["method", "task", "train", "train.epochs", "method.rank", "method.targets", "seed", "threads", "protocol.resize", "x", "backbone"]
)
VALUES = st.one_of(
    st.text(max_size=8), st.sampled_from(["null", "[]", "{}", "[1,2]", "{a: 1}", "${seed}", "1e400", "-1", "true", ".nan", "~"])
)


@given(st.lists(st.one_of(st.text(max_size=12), st.builds("{}={}".format, KEYS, VALUES)), max_size=3))
def test_any_words_give_a_configuration_or_an_error_for_the_user(words: list[str]) -> None:
    try:
        run_id(configured(*words).identity)
    except PetlbenchError as error:
        assert str(error)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        items = list(value.items())
        order.shuffle(items)
        return {key: shuffled(item, order) for key, item in items}
    return value


@given(st.randoms(use_true_random=False))
def test_the_run_id_does_not_depend_on_the_order_of_keys(order: random.Random) -> None:
    identity = configured().identity
    assert run_id(shuffled(identity, order)) == run_id(identity)


CHANGES = {
    "task": "mini/count", "method": "bitfit", "seed": 1, "precision": "bf16", "recipe": "noah",
    "method.rank": 4, "method.scale": 0.5, "method.targets": "[k]", "method.dropout": 0.1,
    "backbone.name": "other", "backbone.checkpoint": "weights.pth",
    "protocol.name": "other", "protocol.resize": 40, "protocol.resize_mode": "short", "protocol.interpolation": "nearest",
    "protocol.normalise": "half", "protocol.augment": "flip", "protocol.shots": 2, "protocol.split_seed": 2,
    "protocol.shortage": "keep", "protocol.train_on": "trainval", "protocol.selection": "best_val", "protocol.select_every": 2, "protocol.select_tail": 2,
    "protocol.score_on": "val",
    "train.epochs": 7, "train.batch_size": 8, "train.optimizer": "sgd", "train.learning_rate": 0.5, "train.scale_learning_rate": True,
    "train.weight_decay": 0.5, "train.momentum": 0.5, "train.schedule": "constant", "train.schedule_step": "epoch",
    "train.warmup_epochs": 2, "train.warmup_learning_rate": 1e-4, "train.min_learning_rate": 1e-4,
    "train.label_smoothing": 0.1, "train.accumulate": 2, "train.clip_norm": 1, "train.drop_path": 0.1,
    "train.checkpoint_activations": True, "train.compile": True, "train.drop_last": True,
    "access.output": "label", "access.top_k": 2, "access.batch": 8,
    "budget.calls": 1, "budget.images": 1, "budget.contexts": 1, "budget.texts": 1, "budget.bytes": 1,
    **{f"budget.{phase}.{what}": 1 for phase in ("val", "test") for what in ("calls", "images", "contexts", "texts", "bytes")},
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_every_setting_that_a_result_may_depend_on_changes_the_run_id(key: str) -> None:
    assert run_id(configured(f"{key}={CHANGES[key]}").identity) != run_id(configured().identity)


def test_no_setting_was_forgotten_above() -> None:
    sections = {
        "backbone": BackboneChoice,
        "protocol": Protocol,
        "train": Train,
        "access": QueryConfig,
        "budget": Limits,
        "budget.val": Limits,
        "budget.test": Limits,
        "method": load_method("lora")[0].Config,
    }
    fields = {f"{name}.{field.name}" for name, section in sections.items() for field in dataclasses.fields(section)}
    assert fields == {key for key in CHANGES if "." in key}
    assert {field.name for field in dataclasses.fields(Budget)} == {*(field.name for field in dataclasses.fields(Limits)), "val", "test"}


@pytest.mark.parametrize(
    "url", ["8000", "ftp://host", "http://", "http://host:port", "http://me:secret@host", "http://host/?token=abc", "http://host/#x"]
)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url ") as caught:
        configured("backbone=remote", f"url={url}")
    assert "8000" in str(caught.value) and "secret" not in str(caught.value)


def test_a_part_for_a_task_may_say_where_its_numbers_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"tasks": {"mini/digits": {"source": "a table", "method": {"rank": 3}}}}
    monkeypatch.setattr("petlbench.config.resolve.load_yaml", lambda folder, name: values)
    config = configured()
    assert (config.method_config.rank, config.hyperparameters) == (3, "task mini/digits")


@pytest.mark.parametrize(
    "word",
    [
        "out=elsewhere",
        "url=http://127.0.0.1:8000",
        "curve=false",
        "device=cpu",
        "threads=2",
        "save=true",
        "data_root=elsewhere",
        "cache_mb=1",
    ],
)
def test_where_and_how_a_run_is_carried_out_is_not_part_of_its_id(word: str) -> None:
    assert word.partition("=")[0] in {field.name for field in dataclasses.fields(Execution)}
    assert run_id(configured(word).identity) == run_id(configured().identity)


def test_a_setting_that_came_later_leaves_the_ids_of_earlier_runs_alone() -> None:
    assert "shortage" not in configured().identity["protocol"] and "shortage" in configured("protocol.shortage=keep").identity["protocol"]


def test_the_protocol_id_follows_the_protocol_and_nothing_else() -> None:
    assert configured("train.epochs=7", "seed=1").protocol_id == configured().protocol_id
    assert configured("protocol.shots=2").protocol_id != configured().protocol_id


@pytest.mark.parametrize("name", method_names())
def test_a_stored_configuration_resolves_to_itself(name: str) -> None:
    config = resolve([f"method={name}", "task=mini/digits", "seed=3", "train.learning_rate=1e-05", "protocol.shots=2"])
    assert restore(config.identity).identity == config.identity


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), exclude_characters="$"), min_size=1))
def test_any_text_survives_being_stored(text: str) -> None:
    identity = configured().identity
    identity["protocol"]["name"] = text
    assert restore(identity).protocol.name == text


@pytest.mark.parametrize("text", ["null", "true", "1e3", "[a]", "a: b", "a # b", "007"])
def test_text_that_looks_like_another_type_stays_text(text: str) -> None:
    identity = configured().identity
    identity["backbone"]["checkpoint"] = text
    assert restore(identity).backbone.checkpoint == text


def test_a_broken_plugin_takes_its_presets_from_the_list_and_disturbs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METHODS._targets, "adapter")
    monkeypatch.delitem(METHODS._origins, "adapter")
    monkeypatch.setattr(METHODS, "_is_complete", False)
    monkeypatch.setattr(METHODS, "_broken", {})
    monkeypatch.setitem(sys.modules, "petlbench.methods.adapter", None)  # as when what it imports is not installed
    with pytest.warns(UserWarning, match="methods.adapter cannot be imported"):
        listed = method_names()
    assert "lora" in listed and not {"adapter", "adaptformer"} & {*listed}
    assert "adapter cannot be imported" in message("method=adaptformer", "task=mini/digits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert message("method=lroa", "task=mini/digits") == "no method 'lroa'. Did you mean 'lora'? (petlbench ls methods lists all)"


@pytest.mark.parametrize(
    ("word", "most"),
    [
        ("threads=100000", "threads must be an int <= 1,024"),
        ("train.batch_size=9999999999", "train.batch_size must be an int <= 1,000,000"),
        ("train.epochs=9999999999", "train.epochs must be an int <= 1,000,000"),
        ("train.accumulate=9999999999", "train.accumulate must be an int <= 1,000,000"),
        ("access.batch=9999999999", "access.batch must be an int <= 1,000,000"),
        ("access.top_k=9999999999", "access.top_k must be an int <= 1,000,000"),
    ],
)
def test_a_number_that_no_machine_has_room_for_is_refused_with_the_most(word: str, most: str) -> None:
    assert message("method=lora", "task=mini/digits", word).startswith(f"{most} (more would exhaust any machine), got ")
    assert configured(word.partition("=")[0] + f"={most.rpartition(' ')[2].replace(',', '')}")


def test_more_workers_than_a_machine_holds_are_refused_before_one_starts() -> None:
    with pytest.raises(ConfigError, match=r"jobs must be an int <= 256, .* got 100,000"):
        split_choice({"jobs": 100_000})
