"""Train and evaluate AutoGLM-Tiny on rendered screens."""
