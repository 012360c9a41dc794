"""Parts of the benchmark `operator_scale`: the calls of the API server, the phases, and the operators that go through them."""
