"""Run ids outlive new settings: what was recorded before a field was there keeps its id."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import petlbench.config.resolve
from petlbench import QueryMethod
from petlbench.analysis.aggregate import runs_frame
from petlbench.config.identity import added, fill_added, run_id, to_identity
from petlbench.config.resolve import RunConfig, restore
from petlbench.config.settings import BackboneChoice, Budget, Protocol, QueryConfig, Train
from petlbench.errors import ConfigError
from petlbench.method import METHODS
from petlbench.records.schema import Record, read_record
from petlbench.records.store import RecordStore
from tests.record_factory import make_record
from tests.words import resolve

FIXTURES = Path(__file__).parents[1] / "records" / "fixtures"
SECTIONS = {"backbone": BackboneChoice, "protocol": Protocol, "train": Train, "access": QueryConfig, "budget": Budget}
WORDS = ("method=lora", "task=mini/digits")


def recorded(version: int) -> Record:
    (path,) = RecordStore(FIXTURES / f"version_{version}").paths()
    return read_record(path)


def with_a_new_field(kind: type, default: Any = False) -> type:
    return dataclasses.make_dataclass(kind.__name__, [("mirror", type(default), added(default))], bases=(kind,))


@pytest.mark.parametrize("version", [2, 3])
def test_todays_code_gives_a_recorded_configuration_its_recorded_id(version: int) -> None:
    record = recorded(version)
    assert run_id(restore(record.config).identity) == record.run_id


def test_of_version_1_only_settings_that_version_2_put_into_every_id_keep_todays_code_from_the_recorded_id() -> None:
    """Older than ``added``, they are part of the ids of versions 2 and 3: ids of version 1 cannot be computed again, so its runs are not resumed."""
    record = recorded(1)
    identity = restore(record.config).identity
    assert run_id(identity) != record.run_id
    assert identity.pop("access") == {"output": "logits", "top_k": 5, "batch": 256}
    assert (identity["budget"].pop("bytes"), identity["train"].pop("drop_last")) == (None, False)
    assert run_id(identity) == record.run_id


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_takes_a_new_field_without_a_change_of_ids(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = resolve(WORDS)
    later = with_a_new_field(SECTIONS[section])
    monkeypatch.setattr(petlbench.config.resolve, SECTIONS[section].__name__, later)
    monkeypatch.setitem(petlbench.config.resolve._SECTIONS, section, later)
    at_default, changed = (resolve([*WORDS, f"{section}.mirror={value}"]) for value in ("false", "true"))
    assert at_default.identity == before.identity and at_default.protocol_id == before.protocol_id
    assert run_id(changed.identity) != run_id(before.identity)
    assert (changed.protocol_id != before.protocol_id) == (section == "protocol")
    for config in (at_default, changed):
        assert getattr(restore(config.identity), section) == getattr(config, section)


@dataclasses.dataclass
class Search:
    steps: int = 3


@dataclasses.dataclass
class Settings:
    width: int = 4
    search: Search = dataclasses.field(default_factory=Search)


@dataclasses.dataclass
class LaterSearch(Search):
    step: float = added(1)


@dataclasses.dataclass
class LaterSettings(Settings):
    search: LaterSearch = dataclasses.field(default_factory=LaterSearch)
    targets: tuple[str, ...] = added(("q", "v"))
    limit: int | None = added(None)
    second: LaterSearch = added(LaterSearch(steps=5, step=2.0))


def test_a_plugins_configuration_takes_new_fields_at_any_depth(plugin: Callable[..., type]) -> None:
    method: Any = type("Own", (QueryMethod,), {})

    def configured(*words: str) -> RunConfig:
        return resolve(["method=own", "task=mini/digits", *words])

    plugin("own", method, Settings)
    before = configured().identity
    method.Config = LaterSettings
    assert configured("method.targets=[q,v]", "method.search.step=1", "method.limit=null", "method.second.step=2").identity == before
    for word in ("targets=[q]", "search.step=2", "limit=3", "second.steps=6", "second.step=1"):
        changed = configured(f"method.{word}")
        assert changed.identity != before
        assert restore(changed.identity).method_config == changed.method_config
    assert restore(before).method_config == LaterSettings()


def test_a_run_takes_a_new_key_at_the_top() -> None:
    config = resolve(WORDS)
    later = dataclasses.make_dataclass("Later", [("mirror", bool, added(False))], bases=(RunConfig,), frozen=True)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    assert later(**values).identity == config.identity
    assert later(**values, mirror=True).identity == config.identity | {"mirror": True}


def test_what_is_left_out_is_put_back_before_a_yaml_could_decide_about_it() -> None:
    """craft15's YAML has another shortage than the default, which this run was set to."""
    config = resolve(["method=zero_shot", "task=craft15/eurosat", "protocol.shortage=refuse"])
    assert "shortage" not in config.identity["protocol"]
    assert restore(config.identity).protocol.shortage == "refuse"


def test_a_description_is_completed_to_the_same_section() -> None:
    whole = LaterSettings(search=LaterSearch(steps=9), limit=2)
    description = to_identity(whole)
    assert description == {"width": 4, "search": {"steps": 9}, "limit": 2}
    assert fill_added(LaterSettings, description) == json.loads(json.dumps(dataclasses.asdict(whole)))


def test_runs_from_before_a_setting_share_a_row_with_those_at_its_default_and_no_other() -> None:
    """Both configurations lack the key of the setting."""
    records = [make_record(seed=0), make_record(seed=1), make_record(seed=0, settings={"mirror": True}, created="2026-02-01T00:00:00Z")]
    assert sorted(set(runs_frame(records)["method"])) == ["lora", "lora [mirror=true]"]


def test_every_field_that_runs_were_recorded_with_is_in_their_ids_and_no_new_one() -> None:
    """A new field without ``added``, one that is gone and one with another name would change the id of every recorded run of the method."""
    known = json.loads((FIXTURES / "fields.json").read_text())
    kinds = {**SECTIONS, **{f"method {name}": METHODS.get(name).Config for name in METHODS.names()}}
    today = {name: _names(kind) for name, kind in kinds.items() if name in known}
    assert today == known, "declare a new field with petlbench.added(default); what was recorded keeps its name"


def _names(kind: type) -> list[str]:
    """Return the fields below a dataclass that are always part of an id, sorted."""
    return sorted(_paths(to_identity(kind()), ""))


def _paths(values: dict[str, Any], prefix: str) -> list[str]:
    return [
        path
        for key, value in values.items()
        for path in (_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"])
    ]


def test_an_error_says_whether_a_value_is_stored_or_given() -> None:
    identity = resolve(["method=lora", "task=mini/digits"]).identity
    damaged = {**identity, "method": {**identity["method"], "rank": "eight"}}
    with pytest.raises(ConfigError, match=r"method.rank must be an int, got 'eight' \(stored configuration\)"):
        restore(damaged)
    with pytest.raises(ConfigError, match=r"train.epochs must be an int, got 'many' \(settings\)"):
        restore(identity, {"train.epochs": "many"})
