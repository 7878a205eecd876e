"""The public Python API: models, pipelines, resources, acceleration, evaluation, export."""
