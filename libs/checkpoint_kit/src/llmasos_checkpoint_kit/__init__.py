"""What readers and writers of checkpoints share: bounded reading of files from strangers, digests, configs, chat templates.

Import from the modules ``folder``, ``mapped``, ``writing``, ``digests``, ``reading``, ``decoders``, ``end_tokens`` and ``templates``;
importing one imports no framework.
"""
