"""What each program may do in PostgreSQL and in the S3 bucket: a script and example policies, for given settings.

The script is `migrations/roles.postgresql.sql`, filled in. It makes group roles, one for each kind of program. Who
logs in as what is the operator's. The policies follow the same roles, and the keys: one prefix per organization.

    map        Postfix's recipient map: slugs, no object
    deliver    orderflow-deliver and the service: adds, and takes back what it has just added
    worker     extraction and hand-over; it delivers what was left in the spool too
    operator   orderflow-admin and orderflow-replay: all tenants
    tenant     an example for one organization: reads its own objects
"""

import json
from typing import Any
from urllib.parse import urlsplit

from orderflow_ingest.config import Settings, SettingsError
from orderflow_ingest.storage.package_files import package_directory
from orderflow_ingest.storage.resilience import timeouts

Policy = dict[str, Any]


def postgresql(settings: Settings, name: str) -> str:
    """Return the script for the schema of this name. Raise SettingsError."""
    if not settings.database_url.startswith("postgresql"):
        raise SettingsError("DATABASE_URL must be a postgresql: URL: SQLite has no roles")
    if set(name) & set("'%\\"):  # it stands in texts and patterns of the script, too
        raise SettingsError("--schema: a name without ' % or \\")
    text = (package_directory("migrations") / "roles.postgresql.sql").read_text()
    quoted = name.replace('"', '""')
    held = timeouts.session_limits(timeouts.scaled_to(settings.deadline).statement)
    sets = ", ".join(f"'SET {name} = ''{value}'''" for name, value in held.items())
    return text.replace("@BOUNDS@", sets).replace("@SCHEMA@", f'"{quoted}"')


def s3(settings: Settings) -> str:
    """Return a policy for each role as one JSON object. Raise SettingsError."""
    parts = urlsplit(settings.archive_url)
    if parts.scheme != "s3":
        raise SettingsError("ARCHIVE_URL must be s3://bucket/prefix: files have no policies")
    bucket, prefix = f"arn:aws:s3:::{parts.netloc}", parts.path.strip("/")
    root = f"{bucket}/{prefix}/" if prefix else f"{bucket}/"
    raw, documents, probe = f"{root}org/*/raw/*", f"{root}org/*/documents/*", f"{root}probe/*"
    # Who may not list a bucket hears of a missing object that access is denied, which is an outage and no loss.
    probing = _allow(("GetObject", "PutObject", "DeleteObject", "DeleteObjectVersion"), probe)
    listing = _allow(("ListBucket",), bucket)
    delivering = _allow(("PutObject", "DeleteObject"), raw)
    own = f"{prefix}/org/1/*" if prefix else "org/1/*"
    listing_own = {**listing, "Condition": {"StringLike": {"s3:prefix": own}}}
    key = settings.s3_encryption.removeprefix("aws:kms").removeprefix(":")
    encrypting = [_key(key)] if settings.s3_encryption.startswith("aws:kms:") else []
    policies = {
        "orderflow_deliver": _policy(delivering, probing, *encrypting),
        "orderflow_worker": _policy(
            delivering,
            _allow(("GetObject",), raw),
            _allow(("GetObject", "PutObject"), documents),
            probing,
            listing,
            *encrypting,
        ),
        "orderflow_operator": _policy(
            _allow(("GetObject", "PutObject", "DeleteObject"), f"{root}org/*"), probing, listing, *encrypting
        ),
        "example: read-only for the organization whose id is 1": _policy(
            _allow(("GetObject",), f"{root}org/1/*"), listing_own, *encrypting
        ),
    }
    return json.dumps(policies, indent=2) + "\n"


def _allow(actions: tuple[str, ...], resource: str) -> Policy:
    return {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [resource]}


def _key(key: str) -> Policy:
    """Allow the use of a KMS key. One that is named by an alias has its id in its policy's resource alone."""
    resource = key if key.startswith("arn:") else f"arn:aws:kms:*:*:key/{'*' if key.startswith('alias/') else key}"
    return {"Effect": "Allow", "Action": ["kms:GenerateDataKey", "kms:Decrypt"], "Resource": [resource]}


def _policy(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": list(statements)}
