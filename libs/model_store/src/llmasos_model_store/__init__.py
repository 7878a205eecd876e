"""The store of fetched models, what was built of them, and where both lie."""
