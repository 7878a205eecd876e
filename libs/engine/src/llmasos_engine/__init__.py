"""The engine loop: schedules, steps, samples and streams. It imports ``llmasos_hookspecs`` only."""
