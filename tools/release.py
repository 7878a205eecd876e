"""Builds the wheels of the named packages into dist/, checks them, and tries them in an environment of its own (`make release`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
DIST: Final = ROOT / "dist"


def run(*command: str | Path) -> str:
    """The output of a program that has to succeed."""
    return subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


def build(packages: list[str]) -> list[Path]:
    """The wheel of each package, and none from before."""
    shutil.rmtree(DIST, ignore_errors=True)
    for package in packages:
        run(sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "--outdir", DIST, package)
    wheels = sorted(DIST.glob("*.whl"))
    if len(wheels) != len(packages):
        raise SystemExit(f"{len(packages)} packages made {len(wheels)} wheels; two of them have one name and version.")
    return wheels


def smoke(wheels: list[Path], folder: Path) -> None:
    """Install core with what its extra `default` names, then every other wheel without its libraries, and ask the command line for them."""
    venv.create(folder, with_pip=True)
    python, llmasos = folder / "bin" / "python", folder / "bin" / "llmasos"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--find-links", DIST, "-c", ROOT / "constraints.txt"]
    run(*pip, "llmasos[default]")
    print(run(llmasos, "--version").strip())
    before = components(llmasos)
    run(llmasos, "tasks")
    run(llmasos, "config", "check")
    run(*pip, "--no-deps", *wheels)
    after = components(llmasos)
    print(f"llmasos[default] has {len(before)} components, all wheels have {len(after)}.")
    if not before or before >= after:
        raise SystemExit("The wheels bring no components beside those of llmasos[default].")


def components(llmasos: Path) -> set[tuple[str, str]]:
    """The installed components; a problem of one ends the release."""
    found = json.loads(run(llmasos, "plugins", "list", "--json"))
    if found["problems"]:
        raise SystemExit("\n".join(found["problems"]))
    return {(each["kind"], each["name"]) for each in found["components"]}


def main() -> None:
    """Build, check, try."""
    wheels = build(sys.argv[1:])
    run(sys.executable, "-m", "twine", "check", "--strict", *wheels)
    with tempfile.TemporaryDirectory() as folder:
        smoke(wheels, Path(folder))
    print(f"{len(wheels)} wheels in {DIST} are ready.")


if __name__ == "__main__":
    main()
