"""Suites that measure harm: what a model holds against people, what it gives away, and whether tenants can see each other's prompts."""
