"""Tiles of images equal those of the processors of transformers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError
from llmasos_image_input.tiles import TileSettings

_SMALL: dict[str, Any] = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
SIZES = ((30, 150), (150, 30), (64, 64), (1, 9), (33, 65), (7, 300), (100, 99))


@pytest.mark.parametrize("processor", ["Idefics3ImageProcessorPil", "SmolVLMImageProcessorPil"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"longest_edge": 70}},
        {"size": {"longest_edge": 20}},
        {"do_image_splitting": False},
        {"do_resize": False},
        {"do_resize": False, "do_image_splitting": False},
        {"resample": 2, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"do_normalize": False, "rescale_factor": 0.01},
        {"do_rescale": False},
    ],
)
def test_tiles_equal_those_of_transformers(processor: str, settings: dict[str, Any]) -> None:
    """Wide, high and square images, those of one pixel's height, and settings of every kind."""
    import transformers

    reference = getattr(transformers, processor)(**{**_SMALL, **settings})
    found = TileSettings.of(json.loads(reference.to_json_string()))
    for height, width in SIZES:
        image = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
        expected = reference([[image]], return_tensors="np", return_row_col_info=True, input_data_format="channels_last")
        layout = found.layout(height, width)
        assert (layout.rows, layout.columns) == (expected["rows"][0][0], expected["cols"][0][0])
        tiles = found.tiles(image)
        assert tiles.shape == (layout.count, 3, 32, 32) == expected["pixel_values"][0].shape
        assert np.allclose(tiles, expected["pixel_values"][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("config", "size"), [({}, (30, 150)), ({}, (150, 30)), ({"size": {"longest_edge": 6000}}, (2, 60))])
def test_the_usual_settings_are_those_of_transformers(config: dict[str, Any], size: tuple[int, int]) -> None:
    """Where a config says nothing; no edge is longer than 4096 pixels before it is cut, whatever it says."""
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    reference, found = Idefics3ImageProcessorPil(**config), TileSettings.of(config)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    expected = reference([[image]], return_tensors="np", return_row_col_info=True, input_data_format="channels_last")
    layout = found.layout(*size)
    assert (layout.rows, layout.columns) == (expected["rows"][0][0], expected["cols"][0][0])
    assert np.allclose(found.tiles(image), expected["pixel_values"][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"max_image_size": {"longest_edge": 0}},
        {"max_image_size": 364},
        {"size": {"longest_edge": True}},
        {"size": {"height": 3, "width": 3}},
        {"size": {"longest_edge": 10**9}},
        {"do_resize": 1},
        {"resample": 9},
        {"rescale_factor": float("nan")},
        {"image_mean": [0.5]},
        {"image_std": [1, 0, 1]},
        {"image_std": "a" * 500},
    ],
)
def test_wrong_settings_are_refused_by_name(config: dict[str, Any]) -> None:
    """In one sentence that names the file and the key."""
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json has {next(iter(config))} = ") as caught:
        TileSettings.of(config)
    assert len(str(caught.value)) < 250
