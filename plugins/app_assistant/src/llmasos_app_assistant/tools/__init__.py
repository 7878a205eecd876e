"""Tools, and where they come from: one module for each kind."""
