"""An ARM64 Python with the packages of `make demo`, run by qemu on an x86 machine: `python tools/arm.py FOLDER -c "print(1)"`.

Debian's apt brings qemu and the interpreter into the folder (it changes nothing else and needs no rights), pip the aarch64 wheels of the
versions that `constraints.txt` pins, and the packages of this project are built here.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
#: Wheels for the C libraries up to the one that the ARM system has.
_PLATFORMS: Final = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))
#: What onnxruntime asks of a CPU: a Neoverse N1, with DOTPROD and without I8MM and SVE.
CPUINFO: Final = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp ssbs
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""


class Unavailable(Exception):
    """What is needed cannot be had on this machine."""


def prepare(folder: Path) -> Path:
    """The ARM interpreter, a program of this machine, made in the folder the first time.

    Raises ``Unavailable`` where apt or a wheel is missing.
    """
    folder = folder.resolve()
    system, stamp = folder / "root", folder / "packages.stamp"
    python = system / "usr" / "bin" / "python-arm"
    if not python.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _fetch_system(folder, system)
        # Children start by it as well: sys.executable is this script, where the kernel could not run an ARM program.
        interpreter = (system / "usr" / "bin" / "python3").resolve()
        python.write_text(f'#!/bin/sh\nexec "{emulator(folder)}" -L "{system}" -0 "$0" "{interpreter}" "$@"\n', encoding="utf-8")
        python.chmod(0o755)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != _sources():
        # Among the system's own packages, so that isolated children (-I) find them too.
        packages = system / "usr" / "lib" / "python3" / "dist-packages"
        shutil.rmtree(packages, ignore_errors=True)
        shutil.rmtree(folder / "wheels", ignore_errors=True)
        _install(folder / "wheels", packages, (system / "usr" / "bin" / "python3").resolve().name.removeprefix("python"))
        stamp.write_text(_sources(), encoding="utf-8")
    return python


def _demo_packages() -> list[Path]:
    """The folders of the packages of `make demo`."""
    names = re.search(r"^DEMO_PACKAGES := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert names is not None
    return [ROOT / name for name in names[1].split()]


def _sources() -> str:
    """A digest of all that the packages are installed from."""
    files = [
        path
        for folder in _demo_packages()
        for pattern in ("pyproject.toml", "src/**/*.py", "src/**/*.toml")
        for path in folder.glob(pattern)
    ]
    digest = hashlib.sha256()
    for path in sorted([*files, ROOT / "constraints.txt"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _run(*command: str | Path) -> str:
    """The output of a program. Raises ``Unavailable`` where it is not there, or fails."""
    try:
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=900)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{command[0]}: {error}") from error
    if done.returncode:
        raise Unavailable(f"{command[0]} failed: {done.stderr.strip()[-400:]}")
    return done.stdout


def emulator(folder: Path) -> Path:
    """qemu for ARM64 programs, fetched into the folder the first time. Raises ``Unavailable``."""
    program = folder.resolve() / "qemu" / "usr" / "bin" / "qemu-aarch64-static"
    if not program.exists():
        _unpack(folder.resolve(), "qemu", _run("dpkg", "--print-architecture").strip(), ["qemu-user-static"])
    return program


def _unpack(folder: Path, name: str, architecture: str, packages: list[str]) -> None:
    """Fetch Debian's packages and what they need, and unpack them below the folder: of qemu itself alone."""
    state, archives = folder / f"apt-{name}", folder / f"apt-{name}" / "archives"
    shutil.rmtree(state, ignore_errors=True)
    for part in (state / "lists" / "partial", archives / "partial"):
        part.mkdir(parents=True)
    (state / "status").touch()
    options = [
        *("-o", f"Dir::State={state}", "-o", f"Dir::State::status={state / 'status'}", "-o", f"Dir::State::lists={state / 'lists'}"),
        *("-o", f"Dir::Cache={state}", "-o", f"Dir::Cache::archives={archives}", "-o", "Debug::NoLocking=1"),
        *("-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"),
    ]
    _run("apt-get", *options, "-qq", "update")
    _run("apt-get", *options, "-qq", "-y", "--no-install-recommends", "--download-only", "install", *packages)
    for archive in sorted(archives.glob("*.deb")):
        if name == "root" or archive.name.startswith("qemu"):
            _run("dpkg-deb", "-x", archive, folder / name)
    shutil.rmtree(state)


def _fetch_system(folder: Path, system: Path) -> None:
    """Unpack qemu for this machine, and Debian's Python for ARM64."""
    emulator(folder)
    _unpack(folder, "root", "arm64", ["python3", "libstdc++6", "libgomp1"])
    (system / "proc").mkdir()
    (system / "proc" / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
    cpus = system / "sys" / "devices" / "system" / "cpu"
    cpus.mkdir(parents=True)
    for name in ("possible", "present", "online"):
        (cpus / name).write_text("0\n", encoding="utf-8")


def _install(wheels: Path, packages: Path, version: str) -> None:
    """Install the packages of the demo, built here, and the aarch64 wheels of what they require."""
    for package in _demo_packages():
        _run(sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "--outdir", wheels, package)
    platforms = [word for platform in _PLATFORMS for word in ("--platform", platform)]
    _run(
        *(sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", packages, "--only-binary=:all:"),
        *(*platforms, "--python-version", version, "-c", ROOT / "constraints.txt", *sorted(wheels.glob("*.whl"))),
    )


def main() -> int:
    """Run the ARM interpreter; the exit code is its own."""
    folder, *arguments = sys.argv[1:]
    return subprocess.run([prepare(Path(folder)), *arguments], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
