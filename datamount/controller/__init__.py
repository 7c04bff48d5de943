"""The service in the cluster: admits pods, gives sessions credentials that die with them, keeps their work.

Stateless: two or more replicas run side by side, and what they know is in the Kubernetes API, in the databases' own
user tables and in the bucket. A fault here never keeps a notebook from starting.
"""
