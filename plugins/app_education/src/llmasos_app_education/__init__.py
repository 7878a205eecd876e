"""Education tasks for LLMasOS. Each module of this package is one task; importing one imports no framework."""
