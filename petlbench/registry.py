"""Named things that plugins provide: methods, tasks and backbones, found lazily and reported helpfully."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points
from types import ModuleType
from typing import Generic, TypeVar

from petlbench.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps a name to a target of one kind. A target is registered by a decorator when its module is imported; the modules are found by name alone.

    ``package``: a folder of plugins. Each module in it is looked at only when a name is asked for that is not registered yet.
    ``group``: entry points of installed packages, ``name = module:attribute``; importing the module must register the name.
    """

    def __init__(self, kind: str, package: str, listing: str) -> None:
        self.kind = kind
        self.group = f"petlbench.{kind}s"
        self._package = package
        self._listing = listing
        self._targets: dict[str, T] = {}
        self._origins: dict[str, str] = {}
        self._is_complete = False

    def register(self, name: str, target: T, origin: str) -> T:
        """Add a target. Registering the same origin again replaces it (a module that is reloaded); another origin is an error."""
        if self._origins.get(name, origin) != origin:
            raise ConfigError(f"{self.kind} '{name}' is registered twice: by {self._origins[name]} and by {origin}; rename one of them")
        self._targets[name] = target
        self._origins[name] = origin
        return target

    def get(self, name: str) -> T:
        """The target of that name; ConfigError with the nearest name when there is none."""
        if name not in self._targets:
            self._import_everything()
        if name not in self._targets:
            raise ConfigError(f"no {self.kind} '{name}'.{did_you_mean(name, self._targets)} (petlbench {self._listing} lists all)")
        return self._targets[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        self._import_everything()
        return sorted(self._targets)

    def origin(self, name: str) -> str:
        """The module that registered a name."""
        return self._origins[name]

    def _import_everything(self) -> None:
        if self._is_complete:
            return
        package: ModuleType = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__, prefix=f"{self._package}."):
            importlib.import_module(module.name)
        for entry in entry_points(group=self.group):
            target = entry.load()
            if entry.name not in self._targets:
                self.register(entry.name, target, entry.value.split(":")[0])
        self._is_complete = True
