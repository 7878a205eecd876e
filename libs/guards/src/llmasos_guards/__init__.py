"""Guards on prompts and answers, in the order of config."""
