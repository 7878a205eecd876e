"""Every text task passes the conformance kit."""

from __future__ import annotations

from typing import Any, ClassVar

from llmasos_hookspecs.testing.task import TaskConformance


class TestGenerate(TaskConformance):
    module = "llmasos_app_text.generate"
    example: ClassVar[dict[str, Any]] = {"prompt": "Once upon a time"}


class TestChat(TaskConformance):
    module = "llmasos_app_text.chat"
    example: ClassVar[dict[str, Any]] = {"message": "Tell me about otters."}
    text_field = "message"


class TestTranslate(TaskConformance):
    module = "llmasos_app_text.translate"
    example: ClassVar[dict[str, Any]] = {"text": "Good morning.", "target": "French"}


class TestAnswer(TaskConformance):
    module = "llmasos_app_text.answer"
    example: ClassVar[dict[str, Any]] = {"question": "What sat on the mat?", "documents": ("The cat sat on the mat.", "Dogs bark.")}


class TestSummarize(TaskConformance):
    module = "llmasos_app_text.summarize"


class TestSentiment(TaskConformance):
    module = "llmasos_app_text.sentiment"


class TestClassify(TaskConformance):
    module = "llmasos_app_text.classify"
    example: ClassVar[dict[str, Any]] = {"text": "Stir the soup.", "labels": ("sports", "cooking")}


class TestDescribe(TaskConformance):
    module = "llmasos_app_text.describe"
    example: ClassVar[dict[str, Any]] = {"image": b"the bytes of a file"}
    answers_nothing = True  # without an instruction all of the image is described


class TestAnswerAboutImages(TaskConformance):
    module = "llmasos_app_text.answer"
    example: ClassVar[dict[str, Any]] = {"question": "What sat on the mat?", "images": (b"a file", b"another")}


class TestExtractFromImages(TaskConformance):
    module = "llmasos_app_text.extract"
    example: ClassVar[dict[str, Any]] = {"schema": {"type": "array", "items": {"type": "string"}, "maxItems": 3}, "images": (b"a file",)}
    text_field = "instruction"
    answers_nothing = True  # with an image the text may be empty


class TestExtract(TaskConformance):
    module = "llmasos_app_text.extract"
    example: ClassVar[dict[str, Any]] = {"text": "Ann is 30.", "schema": {"type": "array", "items": {"type": "string"}, "maxItems": 3}}
