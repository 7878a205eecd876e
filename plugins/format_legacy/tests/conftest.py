"""The small tokenizers and the texts that the tests of ``libs/tokenizing`` make."""

from libs.tokenizing.tests.conftest import strings, train_byte_level

__all__ = ["strings", "train_byte_level"]
