"""A plugin from its own wheel is there after pip installs it, works by being named, and is gone after it is uninstalled."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.wheels


def names(environment, kind):
    return {component["name"] for component in environment.listed()["components"] if component["kind"] == kind}


def test_core_alone_lists_its_own_sources(environment):
    assert {(each["kind"], each["name"]) for each in environment.listed()["components"]} == {
        ("access", "open"),
        ("placement", "local"),
        ("source", "path"),
    }


def test_an_external_scheduler_comes_works_by_name_and_goes(environment, wheels, checkpoint, counting):
    run = ("run", "abc", "--model", str(checkpoint), "--loader", "counting", "--set", "scheduler.use=lifo", "--max-new-tokens", "4")
    before = environment.llmasos(*run)
    assert before.returncode == 1
    assert 'no scheduler "lifo" is installed' in before.stderr
    environment.pip("install", "--no-deps", str(wheels["sched-lifo"]))
    assert "lifo" in names(environment, "scheduler")
    done = environment.llmasos(*run)
    assert (done.returncode, done.stdout) == (0, "defg\n"), done.stderr
    shown = environment.llmasos("plugins", "show", "lifo")
    assert "Newest first." in shown.stdout
    assert "max_sequences" in shown.stdout
    environment.pip("uninstall", "--yes", "sched-lifo")
    assert "lifo" not in names(environment, "scheduler")
    assert environment.llmasos(*run).stderr == before.stderr


@pytest.mark.long  # on each change one comes with a suite, in test_new_kinds.py
def test_an_external_accelerator_comes_works_by_name_and_goes(environment, wheels, checkpoint, counting):
    environment.pip("install", "--no-deps", str(wheels["accel-round"]), str(wheels["sched-lifo"]))
    assert "round" in names(environment, "accelerator")
    run = ("run", "abc", "--model", str(checkpoint), "--loader", "counting", "--scheduler", "lifo", "--max-new-tokens", "4")
    done = environment.llmasos(*run, "--set", "accelerate[0].use=round", "--set", "accelerate[0].decimals=1")
    assert (done.returncode, done.stdout) == (0, "defg\n"), done.stderr
    environment.pip("uninstall", "--yes", "accel-round", "sched-lifo")
    assert "round" not in names(environment, "accelerator")


SCHEDULER = """
    from llmasos_hookspecs import Component, hookimpl

    @hookimpl
    def llmasos_component():
        return Component(summary="Made up.")

    @hookimpl
    def llmasos_create_scheduler(options, context):
        return None
"""


FAULTY = [
    ("raise RuntimeError('half finished')", (), "cannot be imported, because it raises RuntimeError: half finished"),
    (SCHEDULER + "\n    import no_such_module", (), "the module no_such_module is missing"),
    (SCHEDULER.replace("create_scheduler", "create_schedular"), (), 'did you mean "llmasos_create_scheduler"?'),
    (SCHEDULER.replace("options, context", "options, context=None"), (), 'the parameter "context" of llmasos_create_scheduler'),
    (SCHEDULER, ("llmasos-hookspecs==7.0",), "is built for a newer LLMasOS (it requires llmasos-hookspecs==7.0)"),
    (SCHEDULER.replace('"Made up."', '"Made up.", api=9'), (), "is built for a newer LLMasOS (version 9 of the plugin contract)"),
]


@pytest.fixture(scope="module")
def faulty(environment, make_wheel):
    """All of them at once."""
    made = [
        make_wheel(f"made-up-{number}", "scheduler", f"made-{number}", code, version="4.2", requires=requires)
        for number, (code, requires, _) in enumerate(FAULTY)
    ]
    with environment.with_wheels(*made):
        yield


def test_faulty_plugins_are_listed_and_have_no_effect(environment, faulty):
    assert {f"made-{number}" for number in range(len(FAULTY))} <= names(environment, "scheduler")
    fine = environment.llmasos("models", "list")
    assert fine.returncode == 0, fine.stderr


@pytest.mark.parametrize(("number", "said"), [(number, said) for number, (_, _, said) in enumerate(FAULTY)])
def test_a_faulty_plugin_that_config_names_is_told(environment, checkpoint, faulty, number, said):
    checked = environment.llmasos("config", "check", "--set", f"scheduler.use=made-{number}", "--set", f"model.source={checkpoint}")
    assert checked.returncode != 0
    assert said in " ".join((checked.stdout + checked.stderr).split())
    assert f"made-up-{number} 4.2" in " ".join((checked.stdout + checked.stderr).split())
    assert "Traceback" not in checked.stderr


def test_two_distributions_of_one_name_are_listed_as_a_problem_and_told_apart_by_use(environment, make_wheel, checkpoint):
    wheels = [make_wheel(name, "scheduler", "same", SCHEDULER) for name in ("first-one", "second-one")]
    with environment.with_wheels(*wheels):
        assert any("offered by first-one 1.0 and second-one 1.0" in problem for problem in environment.listed()["problems"])
        doubled = environment.llmasos("config", "check", "--set", "scheduler.use=same")
        assert doubled.returncode != 0
        assert 'use = "first-one:same"' in " ".join((doubled.stdout + doubled.stderr).split())
        told = environment.llmasos("config", "check", "--set", "scheduler.use=second-one:same", "--json")
        assert "offered by" not in told.stdout + told.stderr


def test_a_hundred_plugins_are_listed_without_importing_one(environment):
    code = f"""
import json, pathlib, shutil, sys
site, made = pathlib.Path({str(environment.site)!r}), []
for i in range(100):
    (site / f"fake_{{i}}.py").write_text("raise RuntimeError('imported')")
    info = site / f"fake_{{i}}-1.0.dist-info"
    info.mkdir()
    made += [site / f"fake_{{i}}.py", info]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\\nName: fake-{{i}}\\nVersion: 1.0\\nRequires-Dist: llmasos-hookspecs\\n\\n")
    (info / "entry_points.txt").write_text(f"[llmasos.tasks]\\nfake{{i}} = fake_{{i}}\\n")
try:
    from llmasos.cli import main
    sys.argv = ["llmasos", "plugins", "list"]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code, stop.code
finally:
    for path in made:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
heavy = {{"torch", "tensorflow", "onnxruntime", "transformers", "tokenizers", "huggingface_hub", "cattrs", "gguf"}}
print(json.dumps([name for name in sys.modules if name.startswith("fake_") or name in heavy]), file=sys.stderr)
"""
    done = environment.run("-c", code)
    assert done.returncode == 0, done.stderr
    assert sum("fake-" in line for line in done.stdout.splitlines()) == 100
    assert json.loads(done.stderr.splitlines()[-1]) == []
