"""The page at ``/``: chat, tasks and operation in a browser. Its files are in ``page``, and are served as they are."""
