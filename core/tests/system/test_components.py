"""A plugin that config names is checked before it is used, and each fault is one sentence with distribution, version and cure."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmasos.system.components import PluginSet, load_component, missing_frameworks
from llmasos.system.context import HookContext
from llmasos_hookspecs import ConfigError, PluginError
from llmasos_options import structure_options

HEAD = "from llmasos_hookspecs import Component, hookimpl\n"
COMPONENT = HEAD + "@hookimpl\ndef llmasos_component(): return Component(summary='x')\n"
CREATE = "@hookimpl\ndef llmasos_create_scheduler(): pass"


def load(site, name="mine", kind="scheduler"):
    return load_component(site.registry.find(kind, name))


@pytest.fixture
def context(home, store):
    return HookContext(name="mine", cache=home / "cache", store=store)


def test_a_sound_plugin_loads_and_its_hook_gets_its_own_options(site, context):
    site.add("sched-mine", "scheduler", "mine")
    loaded = load(site)
    options = structure_options(loaded.component.options, {"max_sequences": 2}, "scheduler")
    made = PluginSet([loaded]).call(loaded, "llmasos_create_scheduler", options=options, context=context)
    assert made.options.max_sequences == 2
    assert made.name == "mine"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import no_such_module_here",
            r"the module no_such_module_here is missing; pip install the package that brings",
        ),
        ("raise ValueError('broken\\nby design')", r"it raises ValueError: broken by design; try another version of sched-mine"),
        ("import sys; sys.exit(3)", r"it raises SystemExit: 3"),
        ("def f(:", r"it raises SyntaxError"),
        ("from llmasos_hookspecs import NoSuchName", r"ImportError: cannot import name 'NoSuchName'"),
        ("# nothing", r"does not implement llmasos_component; .* has the hooks none"),
        (COMPONENT, r"does not implement llmasos_create_scheduler"),
        (COMPONENT + "def llmasos_create_scheduler(options, context): pass", r"llmasos_create_scheduler is there and lacks @"),
        (
            COMPONENT + "@hookimpl\ndef llmasos_create_schedular(options): pass",
            r"unknown hook, llmasos_create_schedular\(options\); did",
        ),
        (
            COMPONENT + "@hookimpl\ndef llmasos_create_scheduler(options, context, depth=3): pass",
            r'the parameter "depth" of llmasos_create_scheduler\(options, context, depth=3\) a default value',
        ),
        (COMPONENT + "@hookimpl\ndef llmasos_create_scheduler(options, contxt): pass", r"does not fit its specification: .*contxt"),
        (HEAD + "@hookimpl\ndef llmasos_component(): return 3\n" + CREATE, r"returns 3 from llmasos_component"),
        (HEAD + "@hookimpl\ndef llmasos_component(): raise OSError('no')\n" + CREATE, r"fails in llmasos_component: OSError: no"),
        (
            COMPONENT.replace("'x'", "'x', api=99") + CREATE,
            r"built for a newer LLMasOS \(version 99 .*; pip install --upgrade llmasos\.",
        ),
        (
            COMPONENT.replace("'x'", "'x', api=1") + CREATE,
            r"built for an older LLMasOS \(version 1 .*; pip install --upgrade sched-mine",
        ),
        (COMPONENT.replace("'x'", "'x', options=dict") + CREATE, r"must be an attrs class"),
    ],
)
def test_a_broken_plugin_that_config_names_is_one_sentence(site, code, said):
    site.add("sched-mine", "scheduler", "mine", code, version="3.2")
    with pytest.raises(PluginError, match=said) as caught:
        load(site)
    assert 'scheduler "mine" (sched-mine 3.2)' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"requires": ("llmasos-hookspecs==99.0",)},
            r"newer LLMasOS \(it requires llmasos-hookspecs==99.0\), .* has llmasos-hookspecs 0.*; pip install --upgrade llmasos\.",
        ),
        (
            {"requires": ("attrs", "llmasos_hookspecs>=0.1,<0.2")},
            r"is built for an older LLMasOS \(it requires llmasos-hookspecs<0.2,>=0.1\), .*; pip install --upgrade sched-mine, or",
        ),
        ({"requires": ("no-such-distribution>=1", "llmasos-hookspecs")}, r"no-such-distribution>=1 \(not installed\)"),
        ({"requires": ("no-such-distribution>=1",)}, r"no-such-distribution>=1 \(not installed\)"),
        ({"requires": ("no such thing !",)}, r"no valid requirement"),
        ({"requires_python": ">=99"}, r"Python >=99 \(this is 3"),
        ({"requires_python": "some"}, r"no version specifier"),
    ],
)
def test_unmet_requirements_are_found_before_the_import(site, given, said):
    module = site.add("sched-mine", "scheduler", "mine", "raise RuntimeError('imported')", **given)
    with pytest.raises(PluginError, match=said):
        load(site)
    assert module not in sys.modules


def test_requirements_of_extras_and_of_other_platforms_do_not_count(site):
    site.add("sched-mine", "scheduler", "mine", requires=('nothing-here; extra == "fast"', 'nor-here; sys_platform == "plan9"', "attrs>=1"))
    assert load(site).component.summary == "A scheduler of the tests."


def test_a_missing_module_of_the_distribution_itself_asks_for_reinstallation(site):
    site.add("sched-mine", "scheduler", "mine", code="")
    with pytest.raises(PluginError, match=r"the module sched_mine is missing; pip install --force-reinstall sched-mine"):
        load(site)


def test_an_entry_point_must_name_a_module(site):
    site.add("sched-mine", "scheduler", "mine", code="", module="sched_mine:factory")
    with pytest.raises(PluginError, match=r'has the entry point "sched_mine:factory", and it must be the import name of a module'):
        load(site)


def test_the_other_plugins_work_beside_a_broken_one(site, context):
    site.add("broken", "scheduler", "broken", "raise RuntimeError('never imported')")
    site.add("sched-mine", "scheduler", "mine")
    loaded = load(site)
    assert PluginSet([loaded]).call(loaded, "llmasos_create_scheduler", options=None, context=context)


def test_only_the_component_that_is_called_hears_the_call(site, context, scheduler_code):
    site.add("one", "scheduler", "one", scheduler_code.replace("Mine(options, context.name)", "Mine(options, 'one')"))
    site.add("two", "scheduler", "two", scheduler_code.replace("Mine(options, context.name)", "Mine(options, 'two')"))
    one, two = load(site, "one"), load(site, "two")
    plugins = PluginSet([one, two, one])
    for each, said in ((one, "one"), (two, "two"), (one, "one")):
        assert plugins.call(each, "llmasos_create_scheduler", options=None, context=context).name == said


def test_an_error_that_the_plugin_did_not_mean_names_it_and_one_it_meant_passes(site, context, scheduler_code):
    site.add("sched-mine", "scheduler", "mine", scheduler_code.replace("return Mine(options, context.name)", "raise KeyError('lost')"))
    meant = "from llmasos_hookspecs import ConfigError; raise ConfigError('Mine.', 'a.b')"
    site.add("sched-other", "scheduler", "other", scheduler_code.replace("return Mine(options, context.name)", meant))
    mine, other = load(site), load(site, "other")
    plugins = PluginSet([mine, other])
    with pytest.raises(PluginError, match=r'"mine" \(sched-mine 1.0\) failed in llmasos_create_scheduler: KeyError: \'lost\'') as caught:
        plugins.call(mine, "llmasos_create_scheduler", options=None, context=context)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ConfigError, match=r"^Mine\.$"):
        plugins.call(other, "llmasos_create_scheduler", options=None, context=context)


def test_a_hook_that_must_answer_and_returns_none_is_a_fault(site, context, scheduler_code):
    site.add("sched-mine", "scheduler", "mine", scheduler_code.replace("return Mine(options, context.name)", "return None"))
    loaded = load(site)
    with pytest.raises(PluginError, match="returned None from llmasos_create_scheduler"):
        PluginSet([loaded]).call(loaded, "llmasos_create_scheduler", options=None, context=context)


def test_a_missing_framework_is_one_sentence_with_the_package(site, context, scheduler_code):
    needs = "options=Options, frameworks={'no_such_framework': 'the-framework', 'attrs': 'attrs'}"
    site.add("sched-mine", "scheduler", "mine", scheduler_code.replace("options=Options", needs))
    loaded = load(site)
    assert missing_frameworks(loaded.component) == ("the-framework",)
    with pytest.raises(PluginError, match=r"needs the-framework, not installed here; pip install the-framework"):
        PluginSet([loaded]).call(loaded, "llmasos_create_scheduler", options=None, context=context)


def test_a_context_lends_an_accelerators_tools_only_where_they_were_given(home, store):
    lent = HookContext(name="x", cache=home, store=store, calibration_windows=lambda windows, length: (windows, length))
    assert lent.calibration(2, 3) == (2, 3)
    with pytest.raises(PluginError, match=r'The plugin "x" called context.writer, which this hook lacks'):
        lent.writer(None, home)


def test_loading_cores_own_sources_imports_no_framework_and_no_network_library():
    code = (
        "import sys; from llmasos.system.discovery import registry; from llmasos.system.components import load_component;"
        "[load_component(entry) for entry in registry().entries('source') if entry.distribution == 'llmasos'];"
        "print([m for m in ('torch', 'tensorflow', 'onnxruntime', 'huggingface_hub', 'httpx', 'requests', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
