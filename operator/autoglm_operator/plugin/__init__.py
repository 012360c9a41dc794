"""`kubectl autoglm`: the state of deployments, sites and gateways of a cluster, and what a person does with rollouts."""
