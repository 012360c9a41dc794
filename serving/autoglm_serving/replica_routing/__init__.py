"""Which engine replica inside a site answers a call: what is cached where, what is still to be done, what would take least."""
