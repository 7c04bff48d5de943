"""`inject`: a pod and the operator's settings give the pod with datamount in it. Pure: nothing else is looked at."""

from datamount.inject.containers import SEED_SCRIPT
from datamount.inject.injection import inject, why_not
from datamount.inject.settings import InjectSettings, read_inject_settings

__all__ = ["SEED_SCRIPT", "InjectSettings", "inject", "read_inject_settings", "why_not"]
