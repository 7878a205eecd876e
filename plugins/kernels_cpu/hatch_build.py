"""Compiles the native library when a wheel is built, or the package is installed as editable.

With the environment variable LLMASOS_WHEEL_PLATFORM, such as "manylinux_2_17_aarch64", the wheel is one for that platform, compiled by the
package ziglang against the glibc of that version; the library of this machine stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeLibrary(BuildHookInterface):  # type: ignore[misc]  # hatchling has no types
    """Puts the library beside the package's modules, and gives the wheel the platform's tag."""

    PLUGIN_NAME = "custom"
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def dependencies(self) -> list[str]:
        """Where there is no compiler an isolated build installs one."""
        module = self._compile_module()
        if os.environ.get("LLMASOS_WHEEL_PLATFORM"):
            return ["ziglang>=0.13"]
        try:
            module.compiler()
        except module.NoCompiler:
            return ["ziglang>=0.13"]
        return []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        module = self._compile_module()
        build_data["pure_python"] = False
        # The library knows nothing of Python, so one wheel serves every version.
        platform = os.environ.get("LLMASOS_WHEEL_PLATFORM")
        build_data["tag"] = f"py3-none-{platform or sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if platform:
            self._folder = tempfile.TemporaryDirectory()
            elsewhere = Path(self._folder.name) / "libllmasos_kernels_cpu.so"
            command, machine = module.cross_compiler(platform)
            module.compile_library(elsewhere, target=machine, command=command, extra=("-s",))
            build_data["force_include"][str(elsewhere)] = f"llmasos_kernels_cpu/{elsewhere.name}"
            return
        build_data["artifacts"] += ["src/llmasos_kernels_cpu/*.so", "src/llmasos_kernels_cpu/*.dylib"]
        library = Path(self.root) / "src" / "llmasos_kernels_cpu" / module.library_name()
        stamp, digest = library.with_suffix(".stamp"), module.digest()
        if not library.exists() or not stamp.exists() or stamp.read_text(encoding="utf-8") != digest:
            self.app.display_info(f"Compiling {library.name} by {' '.join(module.compiler())}")
            module.compile_library(library)
            stamp.write_text(digest, encoding="utf-8")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def _compile_module(self) -> ModuleType:
        found = importlib.util.spec_from_file_location("llmasos_kernels_compile", Path(self.root) / "compile.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        sys.modules[found.name] = module
        found.loader.exec_module(module)
        return module
