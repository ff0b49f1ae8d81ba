"""What an error of the S3 API means for the operator, and what to change.

Stores answer with a code, a proxy before them with a page and an HTTP status. The AWS SDK, where no answer came, with a
class of its own. No text of theirs is passed on: it holds keys, addresses, or whatever answered there. A code is passed
on if it is a short name, else the HTTP status. Pure: it knows names alone, and imports no SDK.
"""

import re
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
_BUSY = frozenset({"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "503"})
# What a store that refuses a checksum answers has many codes; its text names the header.
_CHECKSUMS = frozenset({"XAmzContentChecksumMismatch", "InvalidDigest", "InvalidTrailer", "MalformedTrailerError"})
_OF_CHECKSUM = re.compile(r"checksum|x-amz-sdk|content-?md5|trailer", re.IGNORECASE)
_OF_ADDRESS = re.compile(r"virtual[- ]?host", re.IGNORECASE)
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")
_LOOKED_AT = 1000
CHECKSUM = "the store refuses this checksum: set ORDERFLOW_S3_CHECKSUM = crc32, md5 or none, see docs/how-to/archive.md"
VIRTUAL = "the store wants the bucket in the host name: set ORDERFLOW_S3_ADDRESSING = virtual"
PAGE_REFUSED = "a proxy or firewall before the store refuses it: let it pass PUT, GET, HEAD, DELETE and x-amz- headers"
_TOO_LARGE = "takes no object of this size: raise its limit to ORDERFLOW_MAX_MESSAGE_SIZE"
_ABOUT_ONE_OBJECT = frozenset({"413", "431", "EntityTooLarge", "RequestEntityTooLarge", "MetadataTooLarge"})
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
    "NotImplemented": "the store lacks what this asks for: set ORDERFLOW_S3_CHECKSUM = md5, or empty "
    "ORDERFLOW_S3_ENCRYPTION",
    "BadDigest": "the store got other bytes than were sent: a proxy before it changes them, or network or memory fails",
    "SecondLevelDomainForbidden": VIRTUAL,
    "PathStyleDomainForbidden": VIRTUAL,
    "EntityTooLarge": f"the store {_TOO_LARGE}",
    "RequestEntityTooLarge": f"the store {_TOO_LARGE}",
    "MetadataTooLarge": "the store takes less metadata than S3 does: take another store",
    "401": "a proxy before the store wants a login: let these hosts pass without one",
    "407": "the proxy of HTTPS_PROXY wants a login: set it as http://user:password@host:port",
    "408": "a proxy before the store does not wait for the whole request: raise its time limit",
    "411": "a proxy before the store refuses the request for its headers: let it pass HTTP/1.1 as it is",
    "413": f"a proxy before the store {_TOO_LARGE} (nginx: client_max_body_size)",
    "429": "too many requests for the store or a proxy before it: raise its limit",
    "431": "a proxy before the store takes no headers of this length: raise its limit to 16 KB "
    "(nginx: large_client_header_buffers)",
    "502": "a proxy before the store gets no answer from it: is the store running?",
    "504": "a proxy before the store has waited for it in vain: is the store overloaded?",
    "507": "the store is full",
    "511": "a network login page answers instead of the store: S3_ENDPOINT_URL leads through somebody's portal",
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

# Of whichever object: no store was there to be asked for one.
UNREACHED = frozenset({"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"})


def explain_s3_answer(operation: str, answer: Mapping[str, Any]) -> str:
    """Return what an error answer of the store, or of a proxy before it, means. `answer` as the SDK gives it."""
    code = _code_of(answer)
    return _joined(f"{operation} was answered with {code}", _meaning(operation, code, answer))


def is_about_one_object(answer: Mapping[str, Any]) -> bool:
    """Return whether an answer is about this object's size or metadata: the store is there for all others."""
    return _code_of(answer) in _ABOUT_ONE_OBJECT


def explain_s3_error(error: BaseException) -> str:
    """Return why no answer came, by the class of the SDK's error."""
    known = (_FAILURES[one.__name__] for one in type(error).__mro__ if one.__name__ in _FAILURES)
    return _joined(type(error).__name__, next(known, ""))


def _code_of(answer: Mapping[str, Any]) -> str:
    """Return the store's code. The HTTP status where there is none, as in a proxy's page."""
    code = answer.get("Error", {}).get("Code")
    if isinstance(code, str) and _CODE.fullmatch(code):
        return code
    return str(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))


def _meaning(operation: str, code: str, answer: Mapping[str, Any]) -> str:
    text = str(answer.get("Error", {}).get("Message", ""))[:_LOOKED_AT]
    if code in _REGION:
        return f"the bucket is in another region: set AWS_DEFAULT_REGION = {_region(answer) or 'that of the bucket'}"
    if _OF_ADDRESS.search(text):
        return VIRTUAL
    if operation == "put_object" and code != "BadDigest" and (code in _CHECKSUMS or _OF_CHECKSUM.search(text)):
        return CHECKSUM
    if code in _REFUSED:
        if _is_page(answer):
            return PAGE_REFUSED
        right = _RIGHTS.get(operation, operation)
        return f"these credentials lack {right} there: see orderflow-admin roles s3"
    if code.startswith("KMS.") and code not in _CODES:
        return "the key of ORDERFLOW_S3_ENCRYPTION cannot be used: see orderflow-admin roles s3"
    return "the store is overloaded or failing" if code in _BUSY else _CODES.get(code, "")


def _is_page(answer: Mapping[str, Any]) -> bool:
    """Return whether a page for people came, which no store sends."""
    kind = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("content-type", "")
    return "html" in str(kind)[:_LOOKED_AT].lower()


def _region(answer: Mapping[str, Any]) -> str:
    """Return the region that the store says it is, where that is a name. Whatever answered there can say anything."""
    region = answer.get("Error", {}).get("Region") or answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get(
        "x-amz-bucket-region", ""
    )
    return region if isinstance(region, str) and region.isascii() and region.replace("-", "").isalnum() else ""


def _joined(what: str, meaning: str) -> str:
    return f"{what}: {meaning}" if meaning else what
