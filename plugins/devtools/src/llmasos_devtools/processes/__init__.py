"""``llmasos ps`` and ``llmasos top``: which models run on this machine, and what they are doing."""
