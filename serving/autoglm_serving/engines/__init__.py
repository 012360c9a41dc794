"""Engines: what turns a list of messages with images into streamed text."""
