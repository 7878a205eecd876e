"""LLMasOS for those who build and look after it: ``plugins new``, ``plugins check`` and ``doctor``."""
