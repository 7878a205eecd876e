"""pip runs isolated from the working folder, and sees the user's own site where it installs there."""

from __future__ import annotations

import os
import site
import subprocess
import sys

import pytest

from llmasos_fetch_kit.pip import pip_command


@pytest.mark.parametrize(("user_site", "flags"), [(True, ["-E", "-P"]), (False, ["-I"]), (None, ["-I"])])
def test_pip_runs_nothing_of_the_working_folder(user_site, flags, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "ENABLE_USER_SITE", user_site)
    assert pip_command("list") == [sys.executable, *flags, "-m", "pip", "list"]
    for name in ("json.py", "pip.py", "sitecustomize.py"):
        (tmp_path / name).write_text("raise SystemExit('a decoy ran')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(pip_command("--version"), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pip ")
