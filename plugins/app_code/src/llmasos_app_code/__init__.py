"""Code tasks for LLMasOS. Each module of this package with a hook is one task; importing one imports no framework."""
