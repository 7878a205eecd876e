"""Loads the model that judges."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmasos_guard_topics.guard import Judge
from llmasos_guard_topics.likelihood import LikelihoodJudge
from llmasos_guard_topics.nearness import NearnessJudge
from llmasos_guard_topics.options import Options
from llmasos_hookspecs import ConfigError, Context, EncoderInfo, SourceError, UnsupportedModel


def judge(options: Options, context: Context) -> Judge:
    """The model that ``options`` name, loaded beside those of the pipeline, for as long as the guard lives.

    Raises:
        ConfigError: there is no topic.
        SourceError: there is no such model.
        UnsupportedModel: it makes no vectors, or generates no text, as ``by`` needs.
    """
    topics = (*options.deny, *options.allow)
    if not topics:
        raise ConfigError('The guard "topics" has neither deny nor allow; name at least one topic.')
    checkpoint = context.load_checkpoint(_found(options.model, context))
    loaded: Any = context.component("loader", options.loader).make(checkpoint=checkpoint)
    embeds = isinstance(loaded.info, EncoderInfo) and "embed" in loaded.info.features
    tokenizer = checkpoint.tokenizer()
    if options.by == "embeddings" and embeds:
        return NearnessJudge(loaded, tokenizer, topics)
    if options.by == "likelihood" and not isinstance(loaded.info, EncoderInfo) and "source" not in loaded.info.features:
        return LikelihoodJudge(loaded, tokenizer, topics)
    loaded.shutdown()
    needed = "makes no vectors of texts" if options.by == "embeddings" else "generates no text"
    raise UnsupportedModel(f'The guard "topics" judges by {options.by}, and {options.model} {needed}; name another model, or set by.')


def _found(model: str, context: Context) -> Path:
    """The folder or file of a model."""
    path = Path(model).expanduser()
    if path.exists():
        return path
    scheme, colon, _ = model.partition(":")
    source = scheme if colon and len(scheme) > 1 and scheme != "file" else "path"
    found: Path | None = context.component("source", source).make(ref=model)
    if found is None:
        raise SourceError(f'The guard "topics" finds no model {model}; give a folder, a file, pypi:... or hf:...')
    return found
