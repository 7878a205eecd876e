"""Images of one size, and images in patches, equal those of the processors of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from llmasos_hookspecs import CheckpointError, RequestError
from llmasos_image_input.crops import CropSettings
from llmasos_image_input.patches import PatchSettings

SIZES = ((30, 50), (50, 30), (16, 16), (7, 300), (300, 7), (33, 65), (1, 9))


def image_of(height: int, width: int) -> Any:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("processor", "settings", "read"),
    [
        ("LlavaImageProcessorPil", {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}, CropSettings.of_clip),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 12}}, CropSettings.of_clip),
        ("CLIPImageProcessorPil", {"size": {"height": 16, "width": 12}, "do_center_crop": False}, CropSettings.of_clip),
        (
            "CLIPImageProcessorPil",
            {"size": {"shortest_edge": 15}, "crop_size": 15, "resample": 2, "do_normalize": False},
            CropSettings.of_clip,
        ),
        ("CLIPImageProcessorPil", {}, CropSettings.of_clip),
        ("Gemma3ImageProcessorPil", {"size": {"height": 16, "width": 24}}, CropSettings.of_gemma3),
        (
            "Gemma3ImageProcessorPil",
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "rescale_factor": 0.01},
            CropSettings.of_gemma3,
        ),
    ],
)
def test_images_of_one_size_equal_those_of_transformers(
    processor: str, settings: dict[str, Any], read: Callable[[Any], CropSettings]
) -> None:
    """Wide, high and square ones, larger and smaller than that size."""
    import transformers

    reference = getattr(transformers, processor)(**settings)
    found = read(json.loads(reference.to_json_string()))
    for size in SIZES:
        expected = reference(image_of(*size), return_tensors="np", input_data_format="channels_last")["pixel_values"][0]
        pixels = found.pixels(image_of(*size))
        assert pixels.shape == (3, found.height, found.width) == expected.shape
        assert np.allclose(pixels, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"patch_size": 4, "size": {"shortest_edge": 64, "longest_edge": 1024}},
        {"patch_size": 4, "size": {"shortest_edge": 4096, "longest_edge": 8192}, "temporal_patch_size": 1},
        {"patch_size": 3, "merge_size": 1, "size": {"shortest_edge": 9, "longest_edge": 400}, "resample": 2, "do_rescale": False},
        {},
    ],
)
def test_patches_equal_those_of_transformers(settings: dict[str, Any]) -> None:
    """Their number and order, and what is in them, where an image is enlarged, reduced, or about as large as it may be."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    reference = Qwen2VLImageProcessorPil(**settings)
    found = PatchSettings.of(json.loads(reference.to_json_string()))
    for size in SIZES:
        expected = reference(image_of(*size), return_tensors="np", input_data_format="channels_last")
        rows, columns = found.grid(*size)
        assert [1, rows * found.merge, columns * found.merge] == expected["image_grid_thw"][0].tolist()
        assert np.allclose(found.patches(image_of(*size)), expected["pixel_values"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("read", "config", "said"),
    [
        (CropSettings.of_clip, {"do_resize": False}, "do_resize"),
        (CropSettings.of_clip, {"do_center_crop": False}, "do_center_crop"),
        (CropSettings.of_clip, {"size": {"shortest_edge": 8}, "crop_size": 16}, "crop_size"),
        (CropSettings.of_clip, {"size": {"height": 8, "width": 8}, "crop_size": 16}, "crop_size"),
        (CropSettings.of_clip, {"size": "large"}, "size"),
        (CropSettings.of_clip, {"size": 10**9, "crop_size": 10**9}, "size"),
        (CropSettings.of_gemma3, {"do_pan_and_scan": True}, "do_pan_and_scan"),
        (CropSettings.of_gemma3, {"size": {"height": 0, "width": 8}}, "size"),
        (CropSettings.of_gemma3, {"image_std": [0.5, 0, 0.5]}, "image_std"),
        (PatchSettings.of, {"do_resize": False}, "do_resize"),
        (PatchSettings.of, {"patch_size": True}, "patch_size"),
        (PatchSettings.of, {"merge_size": 0}, "merge_size"),
        (PatchSettings.of, {"min_pixels": 10**10}, "min_pixels"),
        (PatchSettings.of, {"min_pixels": 4000, "max_pixels": 3000}, "max_pixels"),
        (PatchSettings.of, {"max_pixels": 100, "min_pixels": 10}, "max_pixels"),
        (PatchSettings.of, {"resample": 9}, "resample"),
    ],
)
def test_settings_that_no_processor_has_are_refused(read: Callable[[Any], Any], config: dict[str, Any], said: str) -> None:
    """In a sentence that names the key."""
    with pytest.raises(CheckpointError, match=f"preprocessor_config.json has {said}"):
        read(config)


def test_images_far_longer_than_wide_are_refused() -> None:
    """Before they are scaled, which would take much memory."""
    with pytest.raises(RequestError, match="200 times the other at most"):
        CropSettings.of_clip({}).pixels(image_of(1, 201))
    with pytest.raises(RequestError, match="200 times the other at most"):
        PatchSettings.of({}).grid(201, 1)
