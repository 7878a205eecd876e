"""The words of other libraries and servers for what is an option here."""

from __future__ import annotations

from typing import Final

#: What others call an option of a generation -> our name for it, or our name and a few words.
FOREIGN_WORDS: Final = {
    **dict.fromkeys(("max_tokens", "num_predict", "n_predict", "max_completion_tokens", "max_output_tokens"), "max_new_tokens"),
    **dict.fromkeys(("repeat_penalty", "repetition"), "repetition_penalty"),
    **dict.fromkeys(("stop_sequences", "stop_strings", "stopping_criteria"), "stop"),
    **dict.fromkeys(("response_format", "format", "guided_json", "json_schema", "response_model"), "schema"),
    **dict.fromkeys(("guided_regex", "pattern"), "regex"),
    **dict.fromkeys(("guided_choice",), "choices"),
    **dict.fromkeys(("guided_grammar",), "grammar"),
    **dict.fromkeys(("do_sample", "sample", "greedy"), "temperature: 0 is greedy, and above 0 tokens are drawn"),
    **dict.fromkeys(("top_n", "topk"), "top_k"),
    **dict.fromkeys(("topp", "nucleus"), "top_p"),
    **dict.fromkeys(("top_logprobs", "output_scores"), "logprobs"),
    **dict.fromkeys(("random_seed", "random_state", "generator"), "seed"),
    **dict.fromkeys(("beam_width", "beams"), "num_beams"),
    **dict.fromkeys(("functions",), "tools"),
    **dict.fromkeys(("think", "enable_thinking", "reasoning_effort"), "reasoning, True or False"),
    **dict.fromkeys(("num_return_sequences", "best_of"), "n of generate"),
    **dict.fromkeys(("num_ctx", "n_ctx", "max_model_len", "max_seq_len"), "context_length of load_model, and of [model] in config"),
    "stream": "a method of its own, stream_text or stream_chat",
    "system": "a message of chat, or system of [model] in config",
}
