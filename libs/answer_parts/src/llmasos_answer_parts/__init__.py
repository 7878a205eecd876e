"""What an answer of a chat model consists of: reasoning, text, and calls of functions.

Import from the modules ``functions``, ``call_forms``, ``reasoning``, ``grammar``, ``reader`` and ``written``.
"""
