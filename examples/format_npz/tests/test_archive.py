"""What this format does beyond what every format must."""

import numpy as np
import pytest
from format_npz.archive import Archive

from llmasos_hookspecs import CheckpointError


def test_a_pickle_is_refused(tmp_path):
    """An array of objects would be unpickled, which can run code."""
    file = tmp_path / "weights.npz"
    np.savez(file, weights=np.array([print], dtype=object))
    with pytest.raises(CheckpointError, match="no array of float32 or float16"):
        Archive(file)


def test_half_precision_stays(tmp_path):
    """float16 is read as it was written."""
    file = tmp_path / "weights.npz"
    np.savez(file, weights=np.ones((2, 3), np.float16))
    assert Archive(file).shapes == {"weights": (2, 3)}
    assert Archive(file).read("weights").dtype == np.float16
