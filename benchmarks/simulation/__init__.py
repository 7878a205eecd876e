"""The scheduling code under a million requests, on a virtual clock and with a modelled engine."""
