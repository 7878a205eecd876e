"""What plugins of tasks share: prompts that user text cannot break out of, history that fits the context, kept conversations, rows of
files, tasks on many of them at once, and the rule for empty inputs.

Import from the modules ``prompting``, ``history``, ``conversations``, ``rows``, ``concurrency`` and ``emptiness``; importing one
imports no framework.
"""
