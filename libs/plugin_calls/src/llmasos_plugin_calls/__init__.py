"""Calls of plugins: bounded in time, checked in what they return, observed without delay."""
