"""The pages that the site has beside those of docs/, and which document of the repository each page is."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tools.site import components, contract, verbs
from tools.site.links import rewritten

from llmasos_hookspecs import KINDS

ROOT: Final = Path(__file__).parents[2]
#: Documents at the root of the repository -> their pages.
_ROOT_DOCUMENTS: Final = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def packages() -> dict[str, str]:
    """The README of each package, by its path from the root -> its page."""
    found = {}
    for file in (each for pattern in ("*", "libs/*", "plugins/*") for each in sorted(ROOT.glob(f"{pattern}/pyproject.toml"))):
        name = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["name"]
        found[str((file.parent / "README.md").relative_to(ROOT))] = f"packages/{name}.md"
    return found


def published() -> dict[str, str]:
    """Every document and file of the repository that the site has -> its page or place there."""
    files = [str(file.relative_to(ROOT / "docs")) for file in (ROOT / "docs").rglob("*") if file.is_file()]
    return {f"docs/{path}": path for path in files} | _ROOT_DOCUMENTS | packages() | {"README.md": "index.md"}


@functools.cache
def generated() -> Mapping[str, str]:
    """The pages that are made at build time: page -> Markdown."""
    known = published()
    found = {
        page: rewritten((ROOT / document).read_text(encoding="utf-8"), document, page, known)
        for document, page in (_ROOT_DOCUMENTS | packages()).items()
    }
    for kind in components.kinds_with_options():
        found[f"reference/options/{KINDS[kind].plural}.md"] = components.kind_page(kind)
    found["reference/config.md"] = components.config_page()
    found["reference/command-line.md"] = verbs.page()
    for module, names in contract.modules().items():
        found[f"reference/contract/{module.rpartition('.')[2]}.md"] = contract.contract_page(module, names)
    found["reference/contract/hooks.md"] = contract.hooks_page()
    found["reference/conformance.md"] = contract.kit_page()
    found["packages/index.md"] = _packages_page()
    return found


def _packages_page() -> str:
    lines = ["# Packages", "", "Each is a distribution of its own, with a page of what it promises.", ""]
    for readme, page in packages().items():
        file = (ROOT / readme).parent / "pyproject.toml"
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        lines.append(f"- [{project['name']}]({page.removeprefix('packages/')}): {project['description']}")
    return "\n".join(lines) + "\n"
