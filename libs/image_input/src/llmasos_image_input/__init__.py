"""Images for models: read within bounds, and prepared as each family of vision-language models was trained."""
