"""thin version, replaced shortly"""

from __future__ import annotations
from pathlib import Path
import yaml
from pydantic import ValidationError
from datamount.errors import Fault, ManifestError
from datamount.manifest import Manifest


def load_manifest(path: Path) -> Manifest:
    """The manifest in the file; ManifestError with all its faults."""
    try:
        return Manifest.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (ValidationError, ValueError, yaml.YAMLError) as error:
        raise ManifestError(path.name, [Fault(str(error))]) from error
