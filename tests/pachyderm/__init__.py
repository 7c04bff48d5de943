"""A stand-in for pachd, for the tests and the demo: no package registry has the real one.

It serves the SDK's own service definitions (python_pachyderm.proto.v2: pfs_v2.API and auth_v2.API) from a folder, so
that python-pachyderm's client and datamount's driver talk to it over a real gRPC connection. It is not pachd: one
process, no pipelines, no provenance, no projects beyond a name, no compaction. What it does answer was compared call
by call with a pachd built from pachyderm/pachyderm at commit e237475 (after 2.11); docs/decisions/
pachyderm-test-server.md says how, and where the two still differ. tests/pachyderm/compare.py does it again.
"""
