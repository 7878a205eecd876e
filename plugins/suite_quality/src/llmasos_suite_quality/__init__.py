"""Suites that measure quality, size and speed of models, and the verb ``evaluate`` with its reports."""
