"""Who a session is, from what the API server says about its pod; never from what the session says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodSession:
    """A pod whose token was checked, as the API server knows it now.

    `user` is the hub's raw user name, empty where the hub has none. `repo_url` is a variable of the pod, which its
    user may have chosen: it may narrow a right, but never give one. `image` is the notebook container's.
    """

    pod: str
    uid: str
    namespace: str
    user: str
    image: str
    repo_url: str
    course_identity: str
