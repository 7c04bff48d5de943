"""A stand-in for the Kubernetes API server, for what the controller asks of one.

What it is held to, and what it lacks: docs/decisions/kube-api-stand-in.md.
"""
