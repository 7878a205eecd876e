"""A jinja2 environment for chat templates, which come with a model and are run without being trusted.

jinja2's immutable sandbox keeps a template from reaching Python's internals. What it does not bound is time and memory. Here nothing
happens that is not on a list: methods, filters, tests and functions are named one by one, with what each costs (``allowed``), and every
turn of a loop, comparison, operation and output is paid from a budget before it happens (``limits``). So a template can be rendered in
this process, in less than a millisecond for a usual chat. The rest (whitespace, ``tojson``, ``generation``) is as transformers has it.
"""

from llmasos_chat_templates.sandbox.environment import ChatEnvironment
from llmasos_chat_templates.sandbox.limits import LimitReached, budget

__all__ = ["ChatEnvironment", "LimitReached", "budget"]
