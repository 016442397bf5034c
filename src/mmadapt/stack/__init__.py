"""Several runs of a feature-level method trained in one batched pass, each as it would be alone.

`groups` says which jobs of a sweep go together, `run_stack` runs such a group, and `train` is its middle part, on
built methods. A method takes part by ``stackable = True``; a formula for its gradients, `Method.stacked_gradients`,
spares autograd.
"""
