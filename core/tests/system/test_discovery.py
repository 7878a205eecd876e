"""Components are found from metadata alone, and what is wrong with them is said, not raised, until somebody names them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from llmasos.system.discovery import registry
from llmasos_config.catalog import distribution_for
from llmasos_hookspecs import PluginError


def test_an_installed_component_is_listed_with_its_distribution_and_is_not_imported(site):
    module = site.add("sched-late", "scheduler", "late", "raise RuntimeError('imported')")
    (entry,) = [entry for entry in site.registry.entries("scheduler") if entry.name == "late"]
    assert (entry.kind, entry.module, entry.distribution, entry.version) == ("scheduler", module, "sched-late", "1.0")
    assert entry.label == 'scheduler "late" (sched-late 1.0)'
    assert module not in sys.modules


def test_cores_own_source_is_found_like_any_other_component():
    own = {entry.name for entry in registry().entries("source") if entry.distribution == "llmasos"}
    assert own == {"path"}


def test_one_scan_serves_the_process_until_rescan(site):
    site.registry.entries()
    folder = site.path / "sched_new-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: sched-new\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[llmasos.schedulers]\nnew = sched_new\n")
    assert "new" not in {entry.name for entry in site.registry.entries()}
    site.registry.rescan()
    assert "new" in {entry.name for entry in site.registry.entries()}


def test_a_name_offered_twice_is_an_error_that_names_both_unless_use_says_which(site):
    site.add("one", "scheduler", "same")
    site.add("two", "scheduler", "same", version="2.5")
    with pytest.raises(PluginError, match=r'"same" is offered by one 1.0 and two 2.5; say which with use = "one:same" or use = "two:same"'):
        site.registry.find("scheduler", "same")
    assert site.registry.find("scheduler", "two:same").distribution == "two"
    assert site.registry.find("scheduler", "TWO:same").distribution == "two"
    assert any("offered by one 1.0 and two 2.5" in problem for problem in site.registry.problems())


def test_the_same_name_in_two_groups_is_no_duplicate(site):
    site.add("one", "scheduler", "same")
    site.add("two", "accelerator", "same")
    assert site.registry.find("scheduler", "same").distribution == "one"
    assert not site.registry.problems()


def test_a_second_copy_of_a_project_later_on_the_path_is_shadowed(site, tmp_path, monkeypatch):
    site.add("twice", "scheduler", "same", version="1.0")
    later = tmp_path / "later"
    (later / "Twice-2.0.dist-info").mkdir(parents=True)
    (later / "Twice-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: Twice\nVersion: 2.0\n")
    (later / "Twice-2.0.dist-info" / "entry_points.txt").write_text("[llmasos.schedulers]\nsame = twice\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(later)])
    site.registry.rescan()
    assert site.registry.find("scheduler", "same").version == "1.0"


@pytest.mark.parametrize(
    ("kind", "use", "said"),
    [
        ("scheduler", "mmine", r'did you mean "mine"\?'),
        ("loader", "onxx", r'did you mean "onnx"'),
        ("loader", "zzz", r"pip install the package that brings it \(llmasos-backend-zzz, say\)"),
        ("scheduler", "other:mine", r'No scheduler "mine" of other is installed; installed under that name: sched-mine:mine; pip install'),
        ("schedule", "mine", r'"schedule" is no kind of component'),
    ],
)
def test_what_is_not_installed_is_refused_with_the_nearest_name_or_the_package(site, kind, use, said):
    site.add("sched-mine", "scheduler", "mine")
    with pytest.raises(PluginError, match=said):
        site.registry.find(kind, use)


def test_a_published_component_that_is_missing_names_its_package(site, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(site.path)])
    site.registry.rescan()
    with pytest.raises(PluginError, match=r"The scheduler \"fair\" is not installed; pip install llmasos-sched-fair"):
        site.registry.find("scheduler", "fair")
    assert distribution_for("task", "classify") == "llmasos-app-text"
    assert distribution_for("task", "my_task") == "llmasos-app-my-task"


def test_a_damaged_entry_point_file_hides_no_other_plugin(site):
    site.add("good", "scheduler", "good")
    site.add("bad", "scheduler", "bad")
    (site.path / "bad-1.0.dist-info" / "entry_points.txt").write_text("[llmasos.schedulers]\nno equals sign\n")
    (site.path / "gone-1.0.dist-info").mkdir()
    site.registry.rescan()
    assert site.registry.find("scheduler", "good")
    assert any("bad 1.0 cannot be read" in problem for problem in site.registry.problems())


def test_a_distribution_that_lacks_what_it_requires_is_listed_with_what_it_lacks(site):
    site.add("old", "scheduler", "old", "raise RuntimeError('imported')", requires=("attrs==1", "llmasos-hookspecs"))
    assert [problem for problem in site.registry.problems() if "old" in problem] == [
        f"old 1.0 requires attrs==1 (installed: {version('attrs')}); pip install --upgrade old."
    ]
    assert site.registry.find("scheduler", "old").version == "1.0"


def test_a_hundred_plugins_are_listed_without_importing_one_of_them_or_a_framework(site):
    for i in range(100):
        site.add(f"fake-{i}", "accelerator", f"fake{i}", "raise RuntimeError('imported')", requires=("attrs>=24", "llmasos-hookspecs"))
    code = (
        "import sys; from llmasos.system.discovery import registry;"
        "names = [entry.name for entry in registry().entries('accelerator') if entry.name.startswith('fake')];"
        "registry().problems();"
        "heavy = {'torch', 'tensorflow', 'onnxruntime', 'transformers', 'cattrs', 'rich', 'typer', 'huggingface_hub', 'tokenizers'};"
        "print(len(names), [m for m in sys.modules if m.startswith('fake_') or m in heavy])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(site.path)})
    assert done.stdout.split(maxsplit=1) == ["100", "[]\n"]
