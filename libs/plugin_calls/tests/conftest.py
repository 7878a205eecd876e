"""Engines in memory, as the engine's own tests have them."""

from libs.engine.tests.conftest import hash_engine, media_engine  # noqa: F401 (fixtures)
