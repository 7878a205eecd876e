"""Verbs that install, remove, export and restore plugins with pip."""
