"""Each architecture that ``DecoderConfig`` describes, held against transformers: logits, tensors, and the default of every key."""

from __future__ import annotations

from typing import Any, Final

import attrs
import numpy as np
import pytest

from llmasos_hookspecs import DECODER_FAMILIES, DecoderConfig, Rope, RopeScaling, UnsupportedModel, require_plain
from llmasos_hookspecs.reference import ReferenceDecoder
from llmasos_hookspecs.testing.families import FAMILY_CASES, FAMILY_SIZES, ROPE_CASES

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")


class Made:
    """A tiny random model of transformers, and the same weights as a checkpoint."""

    path = "made"

    def __init__(self, kind: str, changes: dict[str, Any]) -> None:
        torch.manual_seed(0)
        if kind == "phi3" and "rope_parameters" in changes:
            changes = {**changes, "original_max_position_embeddings": 16}
        made = transformers.AutoConfig.for_model(kind, **{**FAMILY_SIZES, **changes})
        self.model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager").float().eval()
        for parameter in self.model.parameters():
            noise = torch.randn_like(parameter)
            parameter.data = parameter.data + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise
        self.config = made.to_dict()
        self.decoder = DecoderConfig.from_dict(self.config)
        # Files call the head of some models otherwise than the model in memory does.
        self.state = {name.replace("lm_head", self.decoder.names.head): tensor for name, tensor in self.model.state_dict().items()}

    def names(self) -> list[str]:
        tied = self.decoder.tie_embeddings
        return [name for name in self.state if not (tied and name == f"{self.decoder.names.head}.weight")]

    def tensor(self, name: str) -> Any:
        return self.state[name].numpy()

    def logits(self, tokens: list[int]) -> Any:
        with torch.inference_mode():
            return self.model(torch.tensor([tokens])).logits[0].numpy()


def error(got: Any, want: Any) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


TOKENS: Final = [int(token) for token in np.random.default_rng(0).integers(3, 131, 64)]


#: Each family in its plain form, which is long where another form is tried too.
FORMS: Final = [
    pytest.param(kind, changes, marks=[pytest.mark.long] * (not changes and [each for each, _ in FAMILY_CASES].count(kind) > 1))
    for kind, changes in FAMILY_CASES
]


@pytest.mark.parametrize(("kind", "changes"), FORMS, ids=lambda value: value if isinstance(value, str) else "-".join(value) or "plain")
def test_a_family_is_computed_as_transformers_computes_it(kind: str, changes: dict[str, Any]) -> None:
    """Logits over the whole context, in one piece and in chunks, and the names and shapes of all tensors."""
    made = Made(kind, changes)
    assert made.decoder.tensor_shapes() == {name: tuple(made.state[name].shape) for name in made.names()}
    want, reference = made.logits(TOKENS), ReferenceDecoder(made)  # type: ignore[arg-type]  # all of a Checkpoint that it uses
    assert error(reference.logits(TOKENS), want) < 2e-6
    cache = reference.cache()
    chunks = [reference.logits(TOKENS[begin:end], cache) for begin, end in ((0, 7), (7, 8), (8, 30), (30, 64))]
    assert error(np.concatenate(chunks), want) < 2e-6


@pytest.mark.parametrize(("kind", "rope"), ROPE_CASES, ids=lambda value: value if isinstance(value, str) else value["rope_type"])
def test_a_rope_is_scaled_as_transformers_scales_it(kind: str, rope: dict[str, Any]) -> None:
    """Sequences on both sides of the context that the model was first trained for."""
    made = Made(kind, {"rope_parameters": rope})
    for count in (10, 16, 17, 64):
        got = ReferenceDecoder(made).logits(TOKENS[:count])  # type: ignore[arg-type]  # all of a Checkpoint that it uses
        assert error(got, made.logits(TOKENS[:count])) < 2e-6, count


@pytest.mark.parametrize("rope", [rope for _, rope in ROPE_CASES[:4]], ids=lambda rope: rope["rope_type"])
def test_an_old_config_says_the_same_with_other_keys(rope: dict[str, Any]) -> None:
    """``rope_theta`` and ``rope_scaling`` with ``type`` are what ``rope_parameters`` with ``rope_type`` is."""
    new = {"model_type": "llama", **FAMILY_SIZES, "rope_parameters": rope}
    old_rope = {"type": rope["rope_type"], **{key: value for key, value in rope.items() if key not in ("rope_type", "rope_theta")}}
    old = {"model_type": "llama", **FAMILY_SIZES, "rope_scaling": old_rope, "rope_theta": rope["rope_theta"]}
    assert DecoderConfig.from_dict(old) == DecoderConfig.from_dict(new)


#: Keys without a default: no real config leaves them out.
_REQUIRED: Final = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "model_type"}


@pytest.mark.parametrize("kind", DECODER_FAMILIES)
def test_a_missing_key_has_the_default_of_its_architecture(kind: str) -> None:
    """Each key of a config is dropped in turn: read as it is, it says what transformers' own class makes of it."""
    changes = dict(next((changes for name, changes in FAMILY_CASES if name == kind and changes), {}))
    heads = {"hidden_size": 1280, "num_attention_heads": 160}  # which every family's default of key-value heads divides
    full = transformers.AutoConfig.for_model(kind, **{**FAMILY_SIZES, **heads, **changes}).to_dict()
    for dropped in full.keys() - _REQUIRED:
        config = {key: value for key, value in full.items() if key != dropped}
        given = {key: value for key, value in config.items() if key != "model_type"}
        meant = transformers.AutoConfig.for_model(kind, **given).to_dict()
        ours, theirs = (attrs.evolve(DecoderConfig.from_dict(each), bos_token_id=None, eos_token_ids=()) for each in (config, meant))
        assert ours == theirs, dropped


@pytest.mark.parametrize("kind", ["gemma", "gemma2", "gemma3_text"])
def test_what_is_not_described_is_refused(kind: str) -> None:
    """A switch that changes the model and that no field holds."""
    with pytest.raises(UnsupportedModel, match="use_bidirectional_attention"):
        DecoderConfig.from_dict({"model_type": kind, **FAMILY_SIZES, "use_bidirectional_attention": True})


# Helium's output projection fits heads alone that share the hidden size.
@pytest.mark.parametrize("kind", sorted(set(DECODER_FAMILIES) - {"helium"}))
def test_a_head_size_of_its_own_is_followed_where_transformers_follows_it(kind: str) -> None:
    """A ``head_dim`` that is no share of the hidden size decides the shapes, or is passed over, as in transformers."""
    made = Made(kind, {"head_dim": 24})
    assert made.decoder.tensor_shapes() == {name: tuple(made.state[name].shape) for name in made.names()}


def test_traits_tell_what_plain_code_would_get_wrong() -> None:
    """Code that knows the plain form alone refuses each family that has more, and names what."""
    plain = {kind for kind in DECODER_FAMILIES if not Made(kind, {}).decoder.traits}
    assert plain == {"llama", "mistral", "ministral", "qwen2", "qwen3", "seed_oss"}
    with pytest.raises(UnsupportedModel, match=r"The stage does not compute made \(olmo2\): it has post block, wide qk norm;"):
        require_plain(Made("olmo2", {}), "The stage")  # type: ignore[arg-type]  # all of a Checkpoint that it uses


def test_longrope_says_where_its_frequencies_change() -> None:
    """A sequence past ``switch`` has other frequencies at every position."""
    scaling = RopeScaling(kind="longrope", original_max_position=16, short_factor=(1.0, 2.0), long_factor=(2.0, 8.0))
    rope = Rope(theta=100.0, dim=4, scaling=scaling)
    assert rope.switch == 16
    np.testing.assert_allclose(rope.inverse_frequencies(16) / rope.inverse_frequencies(17), [2.0, 4.0])
    assert attrs.evolve(rope, scaling=None).switch is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_hidden_layers": 100_000_000}, "num_hidden_layers = 100000000.*at most 4096"),
        ({"rope_theta": 0}, "base 0"),
        ({"rope_theta": float("nan")}, "rope_theta = nan"),
        ({"model_type": "mistral", "sliding_window": -3}, "sliding_window = -3"),
        ({"eos_token_id": 10**30}, "eos_token_id"),
        ({"partial_rotary_factor": 0.0}, "rotates 0 of 16"),
        ({"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "short_factor that does not hold 8"),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor -1"),
        ({"model_type": "qwen2", "layer_types": ["full_attention"]}, "layer_types that do not name each"),
    ],
)
def test_an_impossible_value_is_damage(changes: dict[str, Any], sentence: str) -> None:
    """Named with its key, before anything is expanded to it."""
    from llmasos_hookspecs import CheckpointError

    with pytest.raises(CheckpointError, match=sentence):
        DecoderConfig.from_dict({"model_type": "llama", **FAMILY_SIZES, **changes})
