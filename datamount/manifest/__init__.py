"""datamount.yaml: its models, and the file read with lines, columns and hints in every error.

The models are the manifest's syntax; `datamount schema` prints them as JSON Schema. They are strict: an unknown key
or a value of the wrong type is a fault, never ignored or converted. `values` has the forms of single values,
`sources` the five sources, `document` the whole; `file` turns a file into them and names the line of every fault.
"""

from datamount.manifest.document import Dataset, Manifest
from datamount.manifest.schema import json_schema
from datamount.manifest.sources import S3, SOURCES, URL, MySQL, Pachyderm, Quilt, Source, Table
from datamount.manifest.values import (
    CredentialName,
    Database,
    DatasetName,
    Host,
    Mistake,
    PachydermName,
    Sha256,
    TableName,
    links,
    parse_size,
)

__all__ = [
    "S3",
    "SOURCES",
    "URL",
    "CredentialName",
    "Database",
    "Dataset",
    "DatasetName",
    "Host",
    "Manifest",
    "Mistake",
    "MySQL",
    "Pachyderm",
    "PachydermName",
    "Quilt",
    "Sha256",
    "Source",
    "Table",
    "TableName",
    "json_schema",
    "links",
    "parse_size",
]
