"""From config to a running model, and the process or placement that it runs in."""
