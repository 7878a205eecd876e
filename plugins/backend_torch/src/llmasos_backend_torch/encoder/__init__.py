"""Encoders: models that make vectors or scores of texts."""
