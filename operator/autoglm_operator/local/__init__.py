"""One machine without Kubernetes: the same controller over files, local Ray and a local gateway."""
