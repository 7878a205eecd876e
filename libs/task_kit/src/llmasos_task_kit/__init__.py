"""What the task plugins share: prompts that user text cannot break out of, history that fits the context, kept conversations.

Import from the modules ``prompting``, ``history`` and ``conversations``; importing one imports no framework.
"""
