"""Named things that plugins provide: methods, tasks and backbones, found lazily and reported helpfully."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from petlbench.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to targets of one kind. A target registers itself when its module is imported; modules are imported when a name needs them.

    ``package``: a folder of plugins; ``folder.NAME`` is where NAME is looked for first, so a broken plugin does not disturb the others.
    Entry points of installed packages in the group ``petlbench.KINDs`` are found too: ``NAME = "module:attribute"``.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._targets: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._is_complete = False

    def register(self, name: str, target: T, origin: str) -> T:
        """Add a target that lives in the module ``origin``. A second module that claims the name is an error."""
        if self._origins.get(name, origin) != origin:
            raise ConfigError(f"{self.kind} '{name}' is registered twice: by {self._origins[name]} and by {origin}; rename one of them")
        self._targets[name] = target
        self._origins[name] = origin
        return target

    def get(self, name: str) -> T:
        """The target of that name. ConfigError with the nearest name when there is none."""
        if name not in self._targets:
            self._import_folder_module(name)
        if name not in self._targets:
            self._import_everything()
        if name not in self._targets:
            hint = did_you_mean(name, self._targets)
            raise ConfigError(f"no {self.kind} '{name}'.{hint} (petlbench {self.kind}s lists all)")
        return self._targets[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._import_everything()
        return sorted(self._targets)

    def origin(self, name: str) -> str:
        """The module that registered a name."""
        self.get(name)
        return self._origins[name]

    def _import_folder_module(self, name: str) -> None:
        module = f"{self._package}.{name}"
        if name.isidentifier() and importlib.util.find_spec(module) is not None:
            _import(module)

    def _import_everything(self) -> None:
        if self._is_complete:
            return
        for module in pkgutil.iter_modules(importlib.import_module(self._package).__path__):
            if not module.name.startswith("_"):
                _import(f"{self._package}.{module.name}")
        for entry in entry_points(group=f"petlbench.{self.kind}s"):
            _import(entry.module)
            if entry.name not in self._targets:
                raise ConfigError(f"the package {entry.module} announces a {self.kind} '{entry.name}' but does not register it")
        self._is_complete = True


def _import(module: str) -> None:
    """Import a plugin's module; a broken one is named rather than half hidden in a traceback."""
    try:
        importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(f"the plugin module {module} cannot be imported: {type(error).__name__}: {error}") from error
