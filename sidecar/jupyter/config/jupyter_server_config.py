"""Adds datamount to a Jupyter server whose image knows nothing of it.

The folder of this file is in JUPYTER_CONFIG_PATH, and the server extension and the Lab extension are beside it. This
runs inside the student's Jupyter, so whatever goes wrong here is printed and Jupyter starts without datamount.
"""

import sys
from pathlib import Path

try:
    _here = str(Path(__file__).resolve().parent)
    # At the end: nothing of the student's environment may be hidden by ours.
    if _here not in sys.path:
        sys.path.append(_here)
    from datamount_jupyter.run_folder import export_environment  # type: ignore[import-not-found]

    export_environment()
    c = get_config()  # type: ignore[name-defined]  # noqa: F821  (traitlets puts it here)
    # Imported here already, so that a fault in it is found while it can still be left out.
    import datamount_jupyter.handlers  # type: ignore[import-not-found]  # noqa: F401

    c.ServerApp.jpserver_extensions.update({"datamount_jupyter": True})
    _extensions = Path(_here, "labextensions")
    if _extensions.is_dir():
        for _application in (c.LabServerApp, c.LabApp, c.JupyterNotebookApp):
            _application.extra_labextensions_path.append(str(_extensions))
except Exception as error:
    print(f"datamount: Jupyter starts without it ({type(error).__name__}: {error})", file=sys.stderr)
try:
    from datamount_jupyter.image_config import restore_image_config  # type: ignore[import-not-found]

    restore_image_config(c, _here, load_subconfig)  # type: ignore[name-defined]  # noqa: F821  (of traitlets, too)
except Exception as error:
    print(f"datamount: the image's own configuration ({type(error).__name__}: {error})", file=sys.stderr)
