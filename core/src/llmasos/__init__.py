"""LLMasOS."""
