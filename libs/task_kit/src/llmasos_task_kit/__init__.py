"""What plugins of tasks share: prompts that user text cannot break out of, history that fits the context, kept conversations, rows of
files, tasks on many of them at once, passages of documents that fit a question, and the rule for empty inputs.

Import from the modules ``prompting``, ``history``, ``conversations``, ``rows``, ``concurrency``, ``passages``, ``sentences`` and
``emptiness``; importing one imports no framework.
"""
