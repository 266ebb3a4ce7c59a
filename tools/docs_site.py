"""Hook of the documentation site (mkdocs.yml): the pages that lie at the top of the repository, where readers of the code look for them."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add them, with links as they have to be below docs/."""
    top = Path(config.config_file_path).parent
    for name, place in _PAGES.items():
        files.append(File.generated(config, place, content=moved((top / name).read_text(encoding="utf-8"))))
    return files


def moved(text: str) -> str:
    """A page at the top of the repository as a page in docs/."""
    text = re.sub(r"\]\(docs/", "](", text)
    return re.sub(r"\]\((README|CONTRIBUTING|CHANGELOG)\.md", lambda found: f"]({_PAGES[f'{found[1]}.md']}", text)
