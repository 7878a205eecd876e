"""Voice for LLMasOS: the tasks ``transcribe`` and ``speak``, and the verb ``voice``."""
