"""What a save leaves out: what may hold a secret, what is a cache or a lock, and what the course says.

A version is for ever and may be shared, so a password must not get into one. Programs are known by where they keep
theirs; a few files are like any other but for a login in them, and these are looked into (`holds_login`). What a
person wrote is never judged by its content: a notebook with a key in it is saved, as leaving it out would lose work.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

import pathspec

SECRET = "may hold a secret"  # noqa: S105  (a reason)

DEFAULT_EXCLUDES: dict[str, tuple[str, ...]] = {
    SECRET: (
        # keys, and what programs read passwords from
        "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.agekey",
        "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".ssh/", ".gnupg/", ".password-store/", ".pki/",
        "**/.local/share/keyrings/", "**/.config/sops/",
        "*.env", ".env.*", "!.env.example", "!.env.template", "!.env.sample", ".envrc",
        ".secrets", ".secrets/", ".secrets.*", "*.secret", "secrets.toml", "secrets.json", "secrets.yml",
        "secrets.yaml", "secrets.ini", ".htpasswd", ".password", "password.txt", "passwords.txt",
        "token", ".token", "token.txt", "token.json", "*.token", "*_token", "*_token.txt",
        "api_key", "api_key.txt", "api_keys.txt", "apikey.txt", "*.apikey",
        "credentials", "credentials.json", "credentials.yml", "credentials.yaml", "credentials.ini",
        "credentials.toml", "client_secret*.json", "service_account*.json", "service-account*.json",
        "application_default_credentials.json",
        # clouds, clusters, storage
        ".aws/", ".azure/", "**/.config/gcloud/", "**/.config/containers/", "**/.config/doctl/", ".boto", ".s3cfg",
        ".mc/", ".oci/", ".kube/", "kubeconfig", ".docker/", ".dockercfg", ".databrickscfg", ".snowflake/", ".snowsql/",
        ".terraform.d/", ".terraformrc", "*.tfstate", ".vault-token", "**/.config/rclone/", "rclone.conf",
        ".rclone.conf", ".irods/", ".globus/", ".globusonline/",
        # code hosts and package registries
        ".netrc", "_netrc", ".authinfo", ".git-credentials", ".git-credential-cache/", "**/.git/annex/creds/",
        "**/.config/gh/", "**/.config/glab-cli/", "**/.config/hub", "**/.config/github-copilot/", ".pypirc", ".npmrc",
        "**/.config/pypoetry/auth.toml", "**/.cargo/credentials.toml", ".osfcli.config", ".synapseConfig",
        # databases and sources of data
        ".pgpass", ".my.cnf", ".mylogin.cnf", ".odbc.ini", ".pachyderm/", "**/.local/share/Quilt/",
        "**/.dvc/config.local", ".kaggle/", "kaggle.json", ".huggingface/", ".cdsapirc", ".ecmwfapirc", ".urs_cookies",
        ".edl_token", ".planet.json", "**/.config/earthengine/", "**/.config/sentinelhub/", ".eumdac/", ".Renviron",
        "**/.config/wandb/", ".openai/", ".anthropic/", ".claude/", ".claude.json", ".codex/", ".gemini/",
        # servers that run now: connection files of kernels, tokens and cookies of Jupyter, desktops
        "kernel-????????-????-????-????-????????????.json", "jpserver-*", "nbserver-*", "jupyter_cookie_secret",
        "notebook_cookie_secret", "**/.local/share/jupyter/", ".jupyter/", "**/.config/code-server/",
        "**/.local/share/code-server/", ".vscode-server/", ".Xauthority", ".ICEauthority", ".vnc/",
        ".mozilla/", ".thunderbird/", "**/.config/google-chrome/", "**/.config/chromium/", ".msmtprc",
        # what was typed, with the passwords in it
        ".bash_history", ".zsh_history", ".python_history", ".mysql_history", ".psql_history", ".sqlite_history",
        ".rediscli_history", ".node_repl_history", "fish_history", ".viminfo", ".lesshst", ".ipython/",
    ),
    "a cache": (
        ".cache/", "__pycache__/", "*.pyc", ".ipynb_checkpoints/", ".virtual_documents/", ".mypy_cache/",
        ".ruff_cache/", ".pytest_cache/", "node_modules/", ".npm/", ".conda/pkgs/", ".Trash-*/", ".Trash/", ".DS_Store",
        ".Rproj.user/", "**/.local/share/rstudio/", "**/.local/share/Trash/", ".julia/compiled/", ".julia/logs/",
    ),
    "a lock of a running program": ("**/.git/**/*.lock", ".~lock.*#", ".nfs*"),
    "datamount's own": (".datamount/", ".datamount-*"),
}  # fmt: skip
"""Patterns as in .gitignore (but see `_Rule`), by the reason that the student reads. `.datamount-*` is what a killed
restore left."""


class Excludes:
    """Decides what is left out: the caller's patterns, then the defaults; `!pattern` of the caller brings back."""

    def __init__(self, patterns: Sequence[str] = (), *, skip: Sequence[str] = ()) -> None:
        self._own = pathspec.GitIgnoreSpec.from_lines(patterns)
        self._skip = frozenset(skip)

    def reason(self, path: str, *, folder: bool) -> str | None:
        """Why `path` is left out, or None."""
        if path in self._skip:
            return "datamount's own"
        name = f"{path}/" if folder else path
        if self._own and (own := self._own.check_file(name).include) is not None:
            return "excluded by the course" if own else None
        if not _maybe(path):
            return None
        return next((why for why, rule in _DEFAULTS.items() if rule.covers(path, folder=folder)), None)

    def brings_back(self, path: str) -> bool:
        """Whether the caller's patterns ask for the file `path`, whatever it may hold."""
        return self._own.check_file(path).include is False


_LOGIN = re.compile(
    rb"https?://[^/\s@]+@"  # a user name or token in a URL
    rb"|\w://[^/\s@:]*:[^/\s@]+@"  # a password in any other
    rb"|extraheader"
    rb"|^[\s\w.\"'-]*(?:passw|token|secret)[\w.\"'-]*\s*[:=]",
    re.IGNORECASE | re.MULTILINE,
)
_LOOKED_INTO = frozenset(
    (".gitconfig", ".gitmodules", "config.worktree", "pip.conf", ".condarc", ".yarnrc.yml", "FETCH_HEAD")
)


def may_hold_login(path: str) -> bool:
    """Whether only the content of `path` can tell: settings of git and of package managers, which may have a password
    in a URL, and git's logs, where `git pull https://user:token@…` stays as it was typed."""
    *folders, name = path.split("/")
    if name in _LOOKED_INTO:
        return True
    if not folders:
        return False
    repo = next((n for n, folder in enumerate(folders) if folder.endswith(".git")), None)
    if repo is None:
        return name == "config" and folders[-1] in ("git", ".dvc")
    return name == "config" or "logs" in folders[repo + 1 :]


def holds_login(content: bytes) -> bool:
    """Whether there is a login in one of those files."""
    return _LOGIN.search(content) is not None


def secret_by_name(path: str) -> bool:
    """Whether the defaults would leave the file `path` out as a secret."""
    return _maybe(path) and _DEFAULTS[SECRET].covers(path, folder=False)


class _Rule:
    """Patterns of one reason. Only one that ends in `/` is of folders: `token` is a file, not the work in a folder of
    that name, as git would have it."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._folders = pathspec.GitIgnoreSpec.from_lines(line for line in lines if line.endswith("/"))
        self._names = pathspec.GitIgnoreSpec.from_lines(line for line in lines if "/" not in line)
        self._paths = pathspec.GitIgnoreSpec.from_lines(line for line in lines if "/" in line.rstrip("/"))

    def covers(self, path: str, *, folder: bool) -> bool:
        if folder:
            return self._folders.match_file(f"{path}/")
        within = self._folders.match_file(path) or self._paths.match_file(path)
        return within or self._names.match_file(path.rpartition("/")[2])


_DEFAULTS = {why: _Rule(lines) for why, lines in DEFAULT_EXCLUDES.items()}
_LAST_PARTS = {
    line.removeprefix("!").rstrip("/").rpartition("/")[2] for lines in DEFAULT_EXCLUDES.values() for line in lines
}
_NAMES = frozenset(part for part in _LAST_PARTS if not re.search(r"[*?\[]", part))
_WILD = re.compile("|".join(sorted(fnmatch.translate(part) for part in _LAST_PARTS - _NAMES))).match


def _maybe(path: str) -> bool:
    """Whether any default pattern may match: a cheap look, where asking each pattern would be most of a scan."""
    return any(part in _NAMES or _WILD(part) for part in path.split("/"))
