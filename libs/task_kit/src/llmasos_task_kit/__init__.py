"""What plugins of tasks share: prompts that user text cannot break out of, history that fits the context, kept conversations, rows of files
and tasks on many of them at once.

Import from the modules ``prompting``, ``history``, ``conversations``, ``rows`` and ``concurrency``; importing one imports no framework.
"""
