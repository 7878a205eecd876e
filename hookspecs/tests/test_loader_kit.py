"""``LoaderConformance`` passes a right loader and catches wrong ones, each by the test that is meant to."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from hookspecs.tests.planted_faults import one_for_each_check

from llmasos_hookspecs import Component
from llmasos_hookspecs.testing import QUANTIZED_CASES, TRAIT_CASES, LoaderConformance, engine_tests
from llmasos_hookspecs.testing.growth import growth

PLUGIN = """
import attrs
from llmasos_hookspecs import Component, hookimpl
{head}

@attrs.frozen
class Options:
    threads: int = 1

@hookimpl
def llmasos_component():
    return Component(summary="An engine in numpy.", options=Options{component})

@hookimpl
def llmasos_load(checkpoint, options, context):
    import attrs
    import numpy as np
    from llmasos_hookspecs import CapacityExceeded, Row
    from llmasos_hookspecs.testing.engine import ReferenceEngine
    from llmasos_hookspecs.reference import ReferenceDecoder

{load}
"""


@attrs.frozen
class Options:
    """Of a loader that is asked and never loaded."""


RIGHT = "return ReferenceEngine(checkpoint, context.limits)"


def plugin(load: str = RIGHT, head: str = "", component: str = "") -> str:
    return PLUGIN.format(head=head, component=component, load=textwrap.indent(textwrap.dedent(load).strip(), "    "))


def engine(body: str) -> str:
    """A loader whose engine is the right one but for ``body``."""
    return plugin(
        "class Wrong(ReferenceEngine):\n"
        + textwrap.indent(textwrap.dedent(body).strip(), "    ")
        + "\nreturn Wrong(checkpoint, context.limits)"
    )


def drawing(draw: str) -> str:
    """A loader whose engine draws by another ``draw`` than it is given."""
    return engine(f"""
        def step(self, rows):
            def changed(draw):
                return draw and {draw}
            return super().step([attrs.evolve(row, draw=changed(row.draw)) for row in rows])
    """)


def decoder(body: str) -> str:
    """A loader whose decoder is the right one but for ``body``."""
    inner = "class Decoder(ReferenceDecoder):\n" + textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return plugin(f"{inner}\nengine = ReferenceEngine(checkpoint, context.limits)\nengine.decoder = Decoder(checkpoint)\nreturn engine")


def config(**changes: Any) -> str:
    """A loader that overlooks a switch of the architecture."""
    return plugin(
        f"engine = ReferenceEngine(checkpoint, context.limits)\n"
        f"engine.decoder.config = attrs.evolve(engine.decoder.config, **{changes!r})\nreturn engine"
    )


@attrs.frozen
class Wrong:
    """A defective plugin, and the standard tests that must fail for it."""

    source: str
    caught_by: tuple[str, ...]
    cases: tuple[str, ...] = ("llama",)


WRONG = {
    "decodes one position too far": Wrong(
        decoder("""
            def _rotate(self, x, rope, positions, length):
                return super()._rotate(x, rope, positions + (len(positions) == 1), length)
        """),
        ("test_decode", "test_unequal_batch"),
    ),
    "restarts positions in every chunk": Wrong(
        decoder("""
            def _rotate(self, x, rope, positions, length):
                return super()._rotate(x, rope, positions - positions[0] if len(positions) > 1 else positions, length)
        """),
        ("test_chunked_prefill",),
    ),
    "a chunk sees its own future": Wrong(
        decoder("""
            def _attention(self, index, x, positions, cache):
                last = np.full_like(positions, positions[-1]) if cache.length > len(positions) else positions
                rotate, self._rotate = self._rotate, lambda y, rope, _, length: ReferenceDecoder._rotate(self, y, rope, positions, length)
                out = super()._attention(index, x, last, cache)
                self._rotate = rotate
                return out
        """),
        ("test_chunked_prefill",),
    ),
    "shorter rows of a batch read the padding": Wrong(
        engine("""
            def step(self, rows):
                longest = max((len(row.tokens) for row in rows), default=0)
                self._check(rows)
                out = []
                for row in rows:
                    length = row.position + len(row.tokens)
                    padded = [*row.tokens, *[0] * (longest - len(row.tokens))]
                    logits = self.decoder.logits(padded, self._slots[row.slot])
                    self._slots[row.slot].truncate(length)
                    n = {"all": len(row.tokens), "last": 1, "none": 0}[row.want]
                    out.append(logits[len(logits) - n :])
                return out
        """),
        ("test_unequal_batch",),
    ),
    "rows of a batch leak into each other": Wrong(
        engine("""
            def step(self, rows):
                out = super().step(rows)
                return [o + 0.01 * out[0].mean(0, keepdims=True) if i and len(out[0]) else o for i, o in enumerate(out)]
        """),
        ("test_unequal_batch",),
    ),
    "keeps 20 KB of every step": Wrong(
        engine("""
            kept = []

            def step(self, rows):
                self.kept.append(np.ones(2560))
                return super().step(rows)
        """),
        ("test_many_steps_leave_nothing",),
    ),
    "has numbers for the first hundred positions only": Wrong(
        decoder("""
            def _rotate(self, x, rope, positions, length):
                return np.where(positions[:, None] < 100, super()._rotate(x, rope, positions, length), np.nan)
        """),
        ("test_the_whole_context",),
    ),
    "turns positions past the first hundred too little": Wrong(
        decoder("""
            def _rotate(self, x, rope, positions, length):
                return super()._rotate(x, rope, np.minimum(positions, 100), length)
        """),
        ("test_the_whole_context",),
    ),
    "promises drafts and rounds them as prompts": Wrong(
        engine("""
            @property
            def info(self):
                return attrs.evolve(super().info, features=super().info.features | {"drafts"})

            def step(self, rows):
                return [out * (1 + 1e-7 * (len(row.tokens) > 1)) for row, out in zip(rows, super().step(rows), strict=True)]
        """),
        ("test_drafts",),
    ),
    **{
        f"draws without heed to {what}": Wrong(drawing(f"attrs.evolve(draw, {change})"), ("test_sampling",), ("llama",))
        for what, change in {
            "the point": "point=0.5",
            "temperature": "params=attrs.evolve(draw.params, temperature=min(draw.params.temperature, 1))",
            "top-k": "params=attrs.evolve(draw.params, top_k=0)",
            "top-p": "params=attrs.evolve(draw.params, top_p=1.0)",
            "min-p": "params=attrs.evolve(draw.params, min_p=0.0)",
            "bias": "params=attrs.evolve(draw.params, logit_bias={})",
            "the repetition penalty": "seen=draw.seen[:0]",
            "the penalties for tokens generated": "generated=draw.generated[:0], counts=draw.counts[:0]",
            "how often a token was generated": "counts=np.ones_like(draw.counts)",
        }.items()
    },
    "draws every row by the first row's numbers": Wrong(
        engine("""
            def step(self, rows):
                first = next((row.draw for row in rows if row.draw is not None), None)
                return super().step([attrs.evolve(row, draw=row.draw and first) for row in rows])
        """),
        ("test_sampling",),
    ),
    "draws a token where nothing may be chosen": Wrong(
        engine("""
            def step(self, rows):
                return [out if row.draw is None else np.maximum(out, 0) for row, out in zip(rows, super().step(rows), strict=True)]
        """),
        ("test_sampling",),
    ),
    "gives logits to a row that wants a token drawn": Wrong(
        engine("""
            def step(self, rows):
                return super().step([attrs.evolve(row, draw=None) for row in rows])
        """),
        ("test_sampling",),
    ),
    "gives hidden states of another scale": Wrong(
        engine("""
            def step(self, rows):
                return [out * 1.5 if row.want == "hidden" else out for row, out in zip(rows, super().step(rows), strict=True)]
        """),
        ("test_hidden_states",),
    ),
    "gives logits to a row that wants hidden states": Wrong(
        engine("""
            def step(self, rows):
                return super().step([attrs.evolve(row, want="all") if row.want == "hidden" else row for row in rows])
        """),
        ("test_hidden_states",),
    ),
    "forgets the tokens whose hidden states it gave": Wrong(
        engine("""
            def step(self, rows):
                found = super().step(rows)
                for row in rows:
                    if row.want == "hidden" and row.position == 7:
                        self._slots[row.slot].keys[0][:, 7:] = 0
                return found
        """),
        ("test_hidden_states",),
    ),
    "gives results in slot order": Wrong(
        engine("""
            def step(self, rows):
                order = sorted(range(len(rows)), key=lambda i: rows[i].slot)
                return super().step([rows[i] for i in order])
        """),
        ("test_unequal_batch",),
    ),
    "closing moves a row and forgets which": Wrong(
        engine("""
            def close(self, slot):
                super().close(slot)
                if len(self._slots) == 2:
                    a, b = self._slots
                    self._slots[a].keys, self._slots[b].keys = (
                        [k[:, : self._slots[a].length] if k.shape[1] >= self._slots[a].length else self._slots[a].keys[i]
                         for i, k in enumerate(self._slots[b].keys)],
                        self._slots[b].keys,
                    )
        """),
        ("test_rows_join_and_leave",),
    ),
    "keeps what was truncated": Wrong(
        engine("""
            def truncate(self, slot, length):
                cache = self._slots[slot]
                old = [v.copy() for v in cache.values]
                cache.truncate(length)
                # One value of the forgotten part comes back in place of the last that was kept.
                if 0 < length < old[0].shape[1]:
                    cache.values = [np.concatenate([v[:, :-1], o[:, length : length + 1]], 1) for v, o in zip(cache.values, old)]
        """),
        ("test_truncate",),
    ),
    "truncate does nothing": Wrong(
        engine("""
            def truncate(self, slot, length):
                pass

            def _check(self, rows):
                pass
        """),
        ("test_truncate",),
    ),
    "a fork shares its origin's cache": Wrong(
        engine("""
            def fork(self, slot):
                return self._hold(self._slots[slot])
        """),
        ("test_fork",),
    ),
    "a fork is empty": Wrong(
        engine("""
            def fork(self, slot):
                return self.open()

            def _check(self, rows):
                pass
        """),
        ("test_fork",),
    ),
    "has no capacity": Wrong(
        engine("""
            def _check(self, rows):
                pass

            def _hold(self, cache):
                self._next += 1
                self._slots[self._next] = cache
                return self._next
        """),
        ("test_the_context_is_a_limit", "test_slots_are_a_limit", "test_wrong_rows_are_refused"),
    ),
    "a step that fails empties the slots": Wrong(
        engine("""
            def step(self, rows):
                try:
                    return super().step(rows)
                except (CapacityExceeded, ValueError):
                    for row in rows:
                        if row.slot in self._slots:
                            self._slots[row.slot] = self.decoder.cache()
                    raise
        """),
        ("test_the_context_is_a_limit",),
    ),
    "close gives no slot back": Wrong(
        engine("""
            def close(self, slot):
                pass
        """),
        ("test_slots_are_a_limit", "test_a_thousand_sequences_leave_nothing"),
    ),
    "every slot leaves memory behind": Wrong(
        engine("""
            def open(self):
                self.__dict__.setdefault("kept", []).append(np.ones(8192))
                return super().open()
        """),
        ("test_a_thousand_sequences_leave_nothing",),
    ),
    "returns float64": Wrong(
        engine("""
            def step(self, rows):
                return [o.astype(np.float64) for o in super().step(rows)]
        """),
        ("test_prefill",),
    ),
    "returns a row for want='none'": Wrong(
        engine("""
            def step(self, rows):
                return super().step([attrs.evolve(row, want="last") if row.want == "none" else row for row in rows])
        """),
        ("test_want",),
    ),
    "shuts down once only": Wrong(
        engine("""
            def shutdown(self):
                del self._slots
        """),
        ("test_shutdown_twice",),
    ),
    "overlooks the sliding window": Wrong(config(sliding_window=None), ("test_prefill", "test_truncate"), ("mistral",)),
    "overlooks rope scaling": Wrong(
        config(rope_scaling=None),
        ("test_prefill",),
        ("llama-rope3-tied",),
    ),
    "overlooks q and k norms": Wrong(config(qk_norm=False), ("test_prefill",), ("qwen3",)),
    "overlooks biases": Wrong(
        decoder("""
            def _linear(self, x, part):
                return x @ self._weights[f"{part.module}.weight"].T
        """),
        ("test_prefill",),
        ("qwen2",),
    ),
    "overlooks the minimums of a quantised tensor": Wrong(
        plugin("""
            tensors = {n: attrs.evolve(t, minimums=None) if hasattr(t, "minimums") else t for n, t in checkpoint.tensors.items()}
            return ReferenceEngine(attrs.evolve(checkpoint, tensors=tensors), context.limits)
        """),
        ("test_prefill",),
        ("llama-q4-minimums",),
    ),
    "ignores the limits": Wrong(
        plugin("return ReferenceEngine(checkpoint, attrs.evolve(context.limits, memory=None, context_length=32))"),
        ("test_info_is_true", "test_memory_is_a_limit"),
    ),
    "takes any architecture and any shape": Wrong(
        plugin("""
            from llmasos_hookspecs.testing import tiny_checkpoint
            return ReferenceEngine(tiny_checkpoint("llama"), context.limits)
        """),
        ("test_an_unknown_architecture_is_refused", "test_a_damaged_checkpoint_is_refused"),
    ),
    "keeps a sealed model's weights in a temporary file": Wrong(
        plugin("""
            import tempfile
            with tempfile.NamedTemporaryFile(delete=False) as file:
                file.write(checkpoint.tensor("model.norm.weight").tobytes())
            return ReferenceEngine(checkpoint, context.limits)
        """),
        ("test_nothing_of_a_sealed_checkpoint_is_written",),
    ),
    "loads other weights where a model is sealed": Wrong(
        plugin("""
            from llmasos_hookspecs import is_sealed
            tensors = {n: t * (1.1 if is_sealed(checkpoint) else 1) for n, t in checkpoint.tensors.items()}
            return ReferenceEngine(attrs.evolve(checkpoint, tensors=tensors), context.limits)
        """),
        ("test_nothing_of_a_sealed_checkpoint_is_written",),
    ),
    "keeps slots for all engines together": Wrong(
        plugin("""
            engine = ReferenceEngine(checkpoint, context.limits)
            engine._slots = Options.__dict__["shared"] if "shared" in Options.__dict__ else {}
            type.__setattr__(Options, "shared", engine._slots)
            return engine
        """),
        ("test_two_engines_of_one_checkpoint",),
    ),
    "imports a framework at the top": Wrong(plugin(head="import tokenizers"), ("test_import_is_light",)),
    "imports its own framework at the top": Wrong(
        plugin(head="import colorsys", component=', frameworks={"colorsys": "colorsys"}'), ("test_import_is_light",)
    ),
    "gives a hook parameter a default": Wrong(
        plugin().replace("llmasos_load(checkpoint, options, context)", "llmasos_load(checkpoint, options=None, context=None)"),
        ("test_hooks_name_their_parameters_as_specified",),
    ),
    "misspells a hook": Wrong(plugin().replace("def llmasos_load", "def llmasos_laod"), ("test_the_kind_has_its_hook",)),
    "has an option without a default": Wrong(
        plugin().replace("threads: int = 1", "threads: int"), ("test_options_have_defaults_types_and_round_trip",)
    ),
    "has an option that its own choices exclude": Wrong(
        plugin().replace("threads: int = 1", 'threads: int = attrs.field(default=3, metadata={"choices": (1, 2)})'),
        ("test_options_have_defaults_types_and_round_trip",),
    ),
    "has no summary": Wrong(plugin().replace("An engine in numpy.", ""), ("test_component_describes_itself",)),
}


#: Standard tests that take most of the time of all, of which the first test below shows that a right loader passes them.
OF_LEAKS = ("test_many_steps_leave_nothing", "test_a_thousand_sequences_leave_nothing")


@pytest.mark.slow
@pytest.mark.parametrize("body", ['path_cases = ("llama-q4-minimums",)', pytest.param("", marks=pytest.mark.long)])
def test_a_right_loader_passes(run_conformance: Callable[..., Any], body: str) -> None:
    """The numpy engine passes every standard test on every case; on each change those of slots on one of them."""
    outcomes = run_conformance("LoaderConformance", plugin(), body)
    assert not outcomes.collection_errors
    assert not outcomes.failed, outcomes.messages
    assert len(outcomes.passed) >= 20


@pytest.mark.parametrize("defect", one_for_each_check(WRONG, lambda wrong: wrong.caught_by))
def test_a_wrong_loader_is_caught(run_conformance: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, defect: str) -> None:
    """A loader with one defect fails the tests that are meant to find it; what leaks is seen the first time already."""
    monkeypatch.setattr(engine_tests, "growth", functools.partial(growth, attempts=1))
    wrong = WRONG[defect]
    outcomes = run_conformance("LoaderConformance", wrong.source, f"cases = {wrong.cases!r}\npath_cases = cases", wrong.caught_by)
    assert not outcomes.collection_errors
    assert set(wrong.caught_by) <= outcomes.failed, f"caught only by {sorted(outcomes.failed)}, passed {sorted(outcomes.passed)}"


def test_a_loader_that_keeps_files_may_refuse_sealed_models(run_conformance: Callable[..., Any]) -> None:
    """Asking for the cache is enough: that refuses for it."""
    source = plugin("context.cache.joinpath('built').touch()\nreturn ReferenceEngine(checkpoint, context.limits)")
    outcomes = run_conformance("LoaderConformance", source, 'cases = ("llama",)', ("test_nothing_of_a_sealed_checkpoint_is_written",))
    assert not outcomes.failed, outcomes.messages
    assert outcomes.passed


@pytest.mark.long
@pytest.mark.slow
def test_a_defect_fails_few_tests(run_conformance: Callable[..., Any]) -> None:
    """A failure says where the defect is: a fork that shares its cache fails the fork test alone."""
    wrong = WRONG["a fork shares its origin's cache"]
    assert run_conformance("LoaderConformance", wrong.source, 'cases = ("llama",)', without=OF_LEAKS).failed == {"test_fork"}


@pytest.mark.slow
def test_an_engine_that_cannot_fork_may_say_so(run_conformance: Callable[..., Any]) -> None:
    """The fork test is skipped for an engine whose features lack ``fork``."""
    source = engine("""
        @property
        def info(self):
            return attrs.evolve(super().info, features=frozenset({"batch", "kv_cache"}), hidden_size=0)

        def fork(self, slot):
            raise NotImplementedError
    """)
    outcomes = run_conformance("LoaderConformance", source, 'cases = ("llama",)', without=OF_LEAKS)
    assert not outcomes.failed, outcomes.messages
    assert outcomes.skipped == {"test_fork", "test_drafts", "test_sampling", "test_hidden_states"}


@pytest.mark.slow
def test_an_engine_of_one_slot_passes(run_conformance: Callable[..., Any]) -> None:
    """An engine that holds one sequence only is held to what it says."""
    source = plugin("return ReferenceEngine(checkpoint, attrs.evolve(context.limits, max_sequences=1))")
    outcomes = run_conformance("LoaderConformance", source, 'cases = ("llama",)', without=OF_LEAKS)
    assert not outcomes.failed, outcomes.messages


@pytest.mark.slow
def test_a_loader_may_round_within_its_dtype(run_conformance: Callable[..., Any]) -> None:
    """An engine that computes from 8-bit codes passes where it says so, and fails where it claims float32."""
    load = """
        from llmasos_hookspecs.testing import quantize
        from llmasos_hookspecs import check_tensors
        check_tensors(checkpoint)

        class Rounded(ReferenceEngine):
            @property
            def info(self):
                return attrs.evolve(super().info, dtype={dtype!r})

        tensors = {{n: quantize(t, 8) if getattr(t, "ndim", 2) == 2 and hasattr(t, "ndim") else t for n, t in checkpoint.tensors.items()}}
        return Rounded(attrs.evolve(checkpoint, tensors=tensors), context.limits)
    """
    exact = ("test_prefill", "test_decode", "test_chunked_prefill", "test_unequal_batch", "test_truncate")
    honest = run_conformance("LoaderConformance", plugin(load.format(dtype="int8")), 'cases = ("llama", "qwen2")', exact)
    assert not honest.failed, honest.messages
    assert honest.passed == {*exact}
    bold = run_conformance("LoaderConformance", plugin(load.format(dtype="float32")), 'cases = ("llama",)', ("test_prefill",))
    assert bold.failed == {"test_prefill"}


@pytest.mark.parametrize(
    ("says", "traits"),
    [
        ({"architectures": ("llama", "olmo2")}, set()),
        ({"architectures": ("llama", "olmo2"), "takes": lambda _: None}, {"olmo2"}),
        (
            {"architectures": ("*",), "takes": lambda checkpoint: "it has no gate" if "no gate" in checkpoint.decoder.traits else None},
            {"cohere2", "gemma2", "olmo2"},
        ),
        ({"architectures": ("*",)}, set(TRAIT_CASES)),
    ],
    ids=["plain", "asked", "any but some", "any"],
)
def test_decoders_beyond_the_plain_form_are_for_loaders_that_say_they_take_them(says: dict[str, Any], traits: set[str]) -> None:
    """A loader that says nothing of a config is held to the plain form of the architectures that it names."""

    class Loader(LoaderConformance, standard=True):
        @classmethod
        def load_plugin(cls) -> Any:
            return attrs.make_class("Plugin", ["component"])(Component(summary="A loader.", options=Options, **says))

    covered = set(Loader.covered_cases())
    assert covered & set(TRAIT_CASES) == traits
    assert covered >= {"llama", *QUANTIZED_CASES}
    assert ("mistral" in covered) == (says["architectures"] == ("*",))
