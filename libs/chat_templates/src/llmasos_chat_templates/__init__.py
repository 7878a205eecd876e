"""Chat messages to a model's prompt: what callers give is checked, a template that comes with a model is rendered in a sandbox, and no
message can spell a control token.

Import from the modules ``messages``, ``template``, ``control_tokens`` and ``sandbox``.
"""
