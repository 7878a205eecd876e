"""Which models are in memory: budgets, predictions, eviction."""
