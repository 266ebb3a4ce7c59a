"""Find plugins lazily; name a bad one without disturbing the others."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from petlbench.backbones.backbone import BACKBONES
from petlbench.errors import ConfigError
from petlbench.registry import METHODS, TASKS, Registry

PACKAGE = "fruit_plugins"
GOOD = "import fruit_hub\nfruit_hub.registry.register({name!r}, {name!r}.upper(), __name__)\n"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[str]]:
    """An empty folder of plugins and its registry."""
    monkeypatch.setattr("petlbench.registry.entry_points", lambda group: [])
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "fruit_hub", types.ModuleType("fruit_hub"))
    sys.modules["fruit_hub"].registry = Registry("fruit", PACKAGE)  # type: ignore[attr-defined]
    yield sys.modules["fruit_hub"].registry
    for name in [name for name in sys.modules if name.startswith((PACKAGE, "third_party_fruit"))]:
        del sys.modules[name]


@pytest.fixture
def write(tmp_path: Path, registry: Registry[str]) -> Callable[..., None]:
    def write(module: str, text: str | None = None) -> None:
        (tmp_path / PACKAGE / f"{module}.py").write_text(GOOD.format(name=module) if text is None else text)
        importlib.invalidate_caches()

    return write


def test_a_name_imports_its_own_module_and_no_other(registry: Registry[str], write: Callable[..., None]) -> None:
    write("apple")
    write("pear")
    assert registry.get("apple") == "APPLE"
    assert f"{PACKAGE}.pear" not in sys.modules


def test_a_name_with_a_slash_is_looked_for_in_the_module_before_it(registry: Registry[str], write: Callable[..., None]) -> None:
    write("citrus", "import fruit_hub\nfruit_hub.registry.register('citrus/lime', 1, __name__)")
    write("pear")
    assert registry.get("citrus/lime") == 1
    assert f"{PACKAGE}.pear" not in sys.modules


def test_a_name_that_is_not_its_files_is_found_all_the_same(registry: Registry[str], write: Callable[..., None]) -> None:
    write("citrus", "import fruit_hub\nfruit_hub.registry.register('lime', 1, __name__)")
    assert registry.get("lime") == 1


def test_names_are_complete_and_sorted_and_without_private_modules(registry: Registry[str], write: Callable[..., None]) -> None:
    for module in ("pear", "apple"):
        write(module)
    write("_seeds", "raise RuntimeError('a private module was imported')")
    assert registry.names() == ["apple", "pear"]


def test_an_unknown_name_is_answered_with_the_nearest_and_the_command_that_lists(
    registry: Registry[str], write: Callable[..., None]
) -> None:
    write("apple")
    with pytest.raises(ConfigError, match=r"^no fruit 'aple'\. Did you mean 'apple'\? \(petlbench ls fruits lists all\)$"):
        registry.get("aple")


def test_nothing_is_offered_for_a_name_that_is_near_to_none(registry: Registry[str], write: Callable[..., None]) -> None:
    write("apple")
    with pytest.raises(ConfigError, match=r"^no fruit 'xyz'\. \("):
        registry.get("xyz")


def test_two_modules_cannot_claim_one_name(registry: Registry[str]) -> None:
    registry.register("apple", "mine", "first.module")
    with pytest.raises(ConfigError, match=r"'apple' is registered twice: by first\.module and by second\.module"):
        registry.register("apple", "yours", "second.module")
    assert registry.get("apple") == "mine"


def test_a_module_that_is_imported_again_may_register_again(registry: Registry[str]) -> None:
    registry.register("apple", "old", "first.module")
    registry.register("apple", "new", "first.module")
    assert registry.get("apple") == "new"


@pytest.mark.parametrize("text", ["def (", "import no_such_package", "undefined_name", "raise OSError('no disk')"])
def test_a_broken_plugin_is_named_when_it_is_asked_for(registry: Registry[str], write: Callable[..., None], text: str) -> None:
    write("rotten", text)
    with pytest.raises(ConfigError, match=rf"plugin module {PACKAGE}\.rotten cannot be imported: \w+: .+"):
        registry.get("rotten")


def test_a_broken_plugin_does_not_disturb_a_run_of_another(registry: Registry[str], write: Callable[..., None]) -> None:
    write("rotten", "undefined_name")
    write("citrus", "import fruit_hub\nfruit_hub.registry.register('lime', 1, __name__)")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.get("lime") == 1


def test_a_list_warns_of_the_broken_plugin_and_has_the_others(registry: Registry[str], write: Callable[..., None]) -> None:
    write("rotten", "undefined_name")
    write("apple")
    with pytest.warns(UserWarning, match=r"rotten cannot be imported: NameError"):
        assert registry.names() == ["apple"]


@pytest.mark.parametrize("text", ["undefined_name", "def (", "raise ConfigError('no disk')"])
def test_an_unknown_name_mentions_the_broken_plugin_that_may_have_had_it_and_no_other(
    registry: Registry[str], write: Callable[..., None], text: str
) -> None:
    write("rotten", f"from petlbench.errors import ConfigError\n{text}\n" + GOOD.format(name="plum"))
    write("melon", text)
    for name in ("roten", "plum"):  # one that is nearly the file's, one that the file holds
        with pytest.raises(ConfigError, match=rf"^no fruit '{name}'.*; the plugin module {PACKAGE}\.rotten cannot be imported: [^;]*$"):
            registry.get(name)
    with pytest.raises(ConfigError, match=r"^no fruit 'xyz'\. \(petlbench ls fruits lists all\)$"):
        registry.get("xyz")


def test_a_plugin_that_breaks_with_an_error_of_petlbench_does_not_disturb_the_others(
    registry: Registry[str], write: Callable[..., None]
) -> None:
    write("rotten", "from petlbench.errors import ConfigError\nraise ConfigError('needs a disk')")
    write("apple")
    with pytest.warns(UserWarning, match="rotten cannot be imported: ConfigError: needs a disk"):
        assert registry.names() == ["apple"]


@pytest.mark.parametrize("plugins", [METHODS, BACKBONES, TASKS], ids=lambda plugins: plugins.kind)
def test_a_folder_that_is_scanned_holds_plugins_and_nothing_else(plugins: Registry[object]) -> None:
    scanned = set(plugins._modules())
    assert scanned == {module for module in scanned if any(plugins.origin(name).startswith(module) for name in plugins.names())}


@pytest.mark.parametrize(
    ("name", "module"), [("mini/digits", "mini.mini"), ("folder", "own.folder"), ("csv", "own.csv"), ("noah", "own.noah")]
)
def test_a_common_task_is_found_without_reading_what_is_known_of_published_datasets(name: str, module: str) -> None:
    unneeded = ("petlbench.datasets.disk.suites", "petlbench.datasets.mini.mnist", "torch")
    code = (
        f"import sys; from petlbench.registry import TASKS; TASKS.get({name!r}); assert 'petlbench.datasets.{module}' in sys.modules;"
        f"print([name for name in {unneeded} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_single_module_can_be_a_location(registry: Registry[str], write: Callable[..., None], tmp_path: Path) -> None:
    write("apple")
    write("not_a_plugin", "raise RuntimeError('imported')")
    sys.modules["fruit_hub"].registry = alone = Registry("fruit", f"{PACKAGE}.apple")  # type: ignore[attr-defined]
    assert alone.names() == ["apple"]


def test_nothing_of_a_plugin_that_breaks_half_way_stays_registered(registry: Registry[str], write: Callable[..., None]) -> None:
    write("rotten", GOOD.format(name="rotten") + "undefined_name")
    with pytest.warns(UserWarning, match="rotten"):
        assert registry.names() == []


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry[str]) -> Callable[[str, str], None]:
    """Pretend that a package with an entry point is installed."""
    entries: list[EntryPoint] = []
    monkeypatch.setattr("petlbench.registry.entry_points", lambda group: [entry for entry in entries if entry.group == group])

    def install(name: str, text: str) -> None:
        (tmp_path / f"third_party_fruit_{name}.py").write_text(text)
        importlib.invalidate_caches()
        entries.append(EntryPoint(name, f"third_party_fruit_{name}:Thing", "petlbench.fruits"))

    return install


def test_a_plugin_of_an_installed_package_is_found_and_listed(registry: Registry[str], installed: Callable[[str, str], None]) -> None:
    installed("mango", GOOD.format(name="mango"))
    assert registry.get("mango") == "MANGO"
    assert registry.names() == ["mango"]


def test_an_entry_point_is_imported_without_the_other_entry_points(registry: Registry[str], installed: Callable[[str, str], None]) -> None:
    installed("mango", GOOD.format(name="mango"))
    installed("guava", GOOD.format(name="guava"))
    registry.get("mango")
    assert "third_party_fruit_guava" not in sys.modules


def test_an_entry_point_that_registers_nothing_is_named(registry: Registry[str], installed: Callable[[str, str], None]) -> None:
    installed("mango", "")
    with pytest.raises(ConfigError, match=r"third_party_fruit_mango announces a fruit 'mango' but does not register it"):
        registry.get("mango")


def test_a_package_that_claims_a_name_of_the_folder_is_an_error(
    registry: Registry[str], write: Callable[..., None], installed: Callable[[str, str], None]
) -> None:
    write("apple")
    installed("apple", GOOD.format(name="apple"))
    with pytest.raises(ConfigError, match=r"'apple' is registered twice"):
        registry.names()


@pytest.mark.parametrize("alias", ["Green Apple", "green-apple", "green_apple", "GREEN/apple"])
def test_an_alias_is_known_whatever_its_case_and_blanks(registry: Registry[str], alias: str) -> None:
    registry.register("apple", "APPLE", "here", aliases=["green-apple"])
    assert registry.canonical(alias) == "apple" and registry.canonical("pear") == "pear"


def test_an_alias_of_another_name_is_refused(registry: Registry[str]) -> None:
    registry.register("apple", "APPLE", "here", aliases=["fruit"])
    with pytest.raises(ConfigError, match="the alias 'Fruit' belongs to apple already"):
        registry.register("pear", "PEAR", "here", aliases=["Fruit"])
