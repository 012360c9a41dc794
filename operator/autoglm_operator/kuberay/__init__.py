"""Sites with the back end kubeRay: the objects that a deployment has there, and what observed ones say. Pure."""
