"""Real servers for the tests and the demo, each a class that starts its own process on 127.0.0.1.

    with S3Server() as s3:
        bucket = s3.make_bucket()
        s3.put(bucket, {"a.csv": b"x"})

Every server takes free ports and a temporary folder, answers before `start` returns, writes its log beside its data,
and dies with the process that started it, even when that one is killed with SIGKILL. `stop` and `start` again keep
port and data, so that a test can take a server away. The classes need nothing of pytest; `require` does.
"""

from tests.servers.azure import AzureServer
from tests.servers.base import Server, answers, require, running
from tests.servers.jupyterhub import JupyterHubServer
from tests.servers.mariadb import MariaDBServer
from tests.servers.mysql import mariadb_or_mysql
from tests.servers.pachyderm import PachydermServer, RunningPachd
from tests.servers.process import Missing, Process, ServerFailed, dying_with_us, free_port, node, program
from tests.servers.quilt import push_package
from tests.servers.s3 import Identity, S3Server
from tests.servers.s3_tls import TLSS3Server
from tests.servers.versity import VersityServer
from tests.servers.web import HTTPServer

__all__ = [
    "AzureServer",
    "HTTPServer",
    "Identity",
    "JupyterHubServer",
    "MariaDBServer",
    "Missing",
    "PachydermServer",
    "Process",
    "RunningPachd",
    "S3Server",
    "Server",
    "ServerFailed",
    "TLSS3Server",
    "VersityServer",
    "answers",
    "dying_with_us",
    "free_port",
    "mariadb_or_mysql",
    "node",
    "program",
    "push_package",
    "require",
    "running",
]
