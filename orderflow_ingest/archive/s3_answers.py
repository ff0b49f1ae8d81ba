"""What an error of the S3 API means for who set the store up, in our words, with what to change.

Stores answer with a code; the AWS SDK, where no answer came, with a class of its own. Neither's text is passed on:
it holds keys, addresses, or whatever answered there. Pure: it knows names alone, and imports no SDK.
"""

from collections.abc import Mapping
from typing import Any

_RIGHTS = {
    "put_object": "s3:PutObject",
    "get_object": "s3:GetObject",
    "head_object": "s3:GetObject",
    "delete_object": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
}
_REFUSED = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"})
_REGION = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "TemporaryRedirect",
        "IllegalLocationConstraintException",
        "301",
        "307",
    }
)
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "502", "503", "504"})
_CODES = {
    "NoSuchBucket": "there is no such bucket: make it, or set ARCHIVE_URL = s3://BUCKET/PREFIX",
    "InvalidAccessKeyId": "the store does not know AWS_ACCESS_KEY_ID: set it to a key of this store's",
    "SignatureDoesNotMatch": "AWS_SECRET_ACCESS_KEY is not the secret of AWS_ACCESS_KEY_ID: set it",
    "InvalidToken": "AWS_SESSION_TOKEN is of other credentials: set it, or take it out",
    "ExpiredToken": "AWS_SESSION_TOKEN has expired: set lasting credentials",
    "TokenRefreshRequired": "AWS_SESSION_TOKEN has expired: set lasting credentials",
    "UserSuspended": "the owner of AWS_ACCESS_KEY_ID is suspended in the store",
    "RequestTimeTooSkewed": "this host's clock and the store's are 15 minutes apart: timedatectl set-ntp true",
    "RequestExpired": "this host's clock and the store's are 15 minutes apart: timedatectl set-ntp true",
    "QuotaExceeded": "the bucket is full: raise its quota",
    "XMinioStorageFull": "the store is full",
    "InvalidBucketName": "ARCHIVE_URL has a bucket's name that the store does not allow",
    "MethodNotAllowed": "what listens there is no S3 store, or its console: set S3_ENDPOINT_URL to the port of its API",
    "405": "what listens there is no S3 store, or its console: set S3_ENDPOINT_URL to the port of its API",
    "404": "what listens there is no S3 store: set S3_ENDPOINT_URL to the address of its API, without a path",
    "400": "what listens there speaks another protocol: S3_ENDPOINT_URL with https: or http:?",
    "KMS.NotFoundException": "there is no such key: set ORDERFLOW_S3_ENCRYPTION",
    "KMS.DisabledException": "the key of ORDERFLOW_S3_ENCRYPTION is disabled",
    "InvalidEncryptionAlgorithmError": "the store does not know this kind of encryption: set ORDERFLOW_S3_ENCRYPTION",
    "NotImplemented": "the store lacks what this asks for: empty ORDERFLOW_S3_ENCRYPTION, or take another",
    "InvalidObjectState": "the object lies in a cold storage class: restore it, and end the rule that moves it",
}
_FAILURES = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the settings file",
    "PartialCredentialsError": "set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "CredentialRetrievalError": "the program that gives the AWS credentials has failed",
    "NoRegionError": "set AWS_DEFAULT_REGION",
    "InvalidRegionError": "AWS_DEFAULT_REGION is no region's name",
    "ProfileNotFound": "AWS_PROFILE names a profile that this user has not",
    "EndpointConnectionError": "nobody answers there: look at S3_ENDPOINT_URL, its host name, port and firewall",
    "ConnectTimeoutError": "nobody answers there: look at S3_ENDPOINT_URL, its host name, port and firewall",
    "ReadTimeoutError": "it is too slow, or does not answer at all",
    "ConnectionClosedError": "what listens there hangs up: S3_ENDPOINT_URL with https: or http:?",
    "ProxyConnectionError": "the proxy of HTTPS_PROXY cannot be reached",
    "ResponseParserError": "what listens there is no S3 store: set S3_ENDPOINT_URL",
    "ValueError": "look at S3_ENDPOINT_URL and AWS_DEFAULT_REGION",
}


def answered(operation: str, answer: Mapping[str, Any]) -> str:
    """Tell an error that the store has answered with; `answer` as the SDK gives it."""
    error = answer.get("Error", {})
    code = str(error.get("Code", ""))
    return _joined(f"{operation} was answered with {code}", _meaning(operation, code, _region(answer)))


def failed(error: BaseException) -> str:
    """Tell why no answer came, by the class of the SDK's error."""
    known = (_FAILURES[one.__name__] for one in type(error).__mro__ if one.__name__ in _FAILURES)
    return _joined(type(error).__name__, next(known, ""))


def _meaning(operation: str, code: str, region: str) -> str:
    if code in _REGION:
        return f"the bucket is in another region: set AWS_DEFAULT_REGION = {region or 'that of the bucket'}"
    if code in _REFUSED:
        right = _RIGHTS.get(operation, operation)
        return f"these credentials lack {right} there: see orderflow-admin roles s3"
    if code.startswith("KMS.") and code not in _CODES:
        return "the key of ORDERFLOW_S3_ENCRYPTION cannot be used: see orderflow-admin roles s3"
    return "the store is overloaded or failing" if code in _BUSY else _CODES.get(code, "")


def _region(answer: Mapping[str, Any]) -> str:
    """Give the region that the store says it is, where that is a name; whatever answered there can say anything."""
    told = answer.get("Error", {}).get("Region") or answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(
        "x-amz-bucket-region", ""
    )
    return told if isinstance(told, str) and told.isascii() and told.replace("-", "").isalnum() else ""


def _joined(what: str, meaning: str) -> str:
    return f"{what}: {meaning}" if meaning else what
