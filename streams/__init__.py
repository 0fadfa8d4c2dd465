"""How events travel: the pipeline, the Faust app, topics, settings, and the command line."""
