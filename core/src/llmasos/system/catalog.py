"""Which distribution brings a component that is not installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: kind -> name in config -> distribution, for the components that this project publishes.
PUBLISHED: Final[Mapping[str, Mapping[str, str]]] = {
    "source": {"path": "llmasos", "pypi": "llmasos", "hf": "llmasos"},
    "loader": {
        "onnx": "llmasos-backend-onnx",
        "torch": "llmasos-backend-torch",
        "tf": "llmasos-backend-tf",
        "openvino": "llmasos-backend-openvino",
    },
    "accelerator": {
        "quant": "llmasos-accel-quant",
        "prune": "llmasos-accel-prune",
        "distill": "llmasos-accel-distill",
    },
    "scheduler": {
        "fifo": "llmasos-sched-fifo",
        "fair": "llmasos-sched-fair",
        "priority": "llmasos-sched-priority",
        "deadline": "llmasos-sched-deadline",
        "sjf": "llmasos-sched-sjf",
    },
    "task": {
        **dict.fromkeys(
            ("generate", "chat", "translate", "answer", "summarize", "sentiment", "classify", "extract"),
            "llmasos-app-text",
        ),
        **dict.fromkeys(("code", "complete", "code_translate", "explain"), "llmasos-app-code"),
        **dict.fromkeys(("grade", "tutor"), "llmasos-app-education"),
    },
    "observer": {},
}

#: The word of each kind in the distribution names that authors are asked to follow.
_CONVENTION: Final[Mapping[str, str]] = {
    "source": "source",
    "loader": "backend",
    "accelerator": "accel",
    "scheduler": "sched",
    "task": "app",
    "observer": "observer",
}


def distribution_for(kind: str, name: str) -> str:
    """The distribution to install for a component: the published one, else the one that the naming convention asks for."""
    published = PUBLISHED[kind].get(name)
    return published or f"llmasos-{_CONVENTION[kind]}-{name.replace('_', '-')}"
