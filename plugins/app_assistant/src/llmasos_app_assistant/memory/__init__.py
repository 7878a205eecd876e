"""What the assistant keeps beside the conversations themselves: turns in progress, summaries, and vectors of texts."""
