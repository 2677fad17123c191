"""What an S3 service or boto3 says went wrong, as an error of our tree."""

from __future__ import annotations

from botocore import exceptions as boto

from checkpoint.errors import (
    AlreadyExists,
    ConditionNotHonoured,
    CredentialsRefused,
    NotFound,
    StoreError,
    StoreFull,
    StoreNotWritable,
    StoreUnavailable,
    UnsupportedStore,
)

# Everything that boto3 raises for what happens outside this process.
BOTO_ERRORS = (boto.ClientError, boto.BotoCoreError)

# Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; those with Minio in
# their names are MinIO's.
_CREDENTIALS = {
    "AuthorizationQueryParametersError",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_REGION = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "IllegalLocationConstraintException",
}
_FULL = {
    "EntityTooLarge",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
_PASSING = {
    "BadDigest",  # altered on its way
    "ConditionalRequestConflict",  # another write of the same key was under way
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_PASSING_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.ProfileNotFound,
    boto.SSOError,
    boto.UnauthorizedSSOTokenError,
)


class RangeBeyondEnd(StoreError):
    """The range that was asked for begins where the object ends, or later."""


def translated(error: Exception, store: str, key: str) -> StoreError:
    """The error to raise for one of `BOTO_ERRORS`. `store` is its name for people."""
    if isinstance(error, boto.ClientError):
        return _answered(error, store, key)
    said = str(error).rstrip(" .")
    if isinstance(error, _NO_CREDENTIALS):
        return CredentialsRefused(f"There are no credentials for {store}: {said}.")
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError):
        return StoreUnavailable(f"Credentials for {store} could not be fetched: {said}.")
    if isinstance(error, boto.ParamValidationError):
        return UnsupportedStore(f"{store} cannot be used: {said}.")
    return StoreUnavailable(f"{store} does not answer: {said}.")


def _answered(error: boto.ClientError, store: str, key: str) -> StoreError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    details = error.response.get("Error", {})
    code = str(details.get("Code", ""))
    said = f"{code or status} {details.get('Message', '')}".rstrip(" .")
    if code == "NoSuchBucket":
        return StoreNotWritable(f"There is no such bucket: {store}.")
    if code in _CREDENTIALS:
        return CredentialsRefused(f"{store} does not take the credentials: {said}.")
    if code in _REGION or status == 301:
        return UnsupportedStore(f"{store} is in another region, name it with ?region=…: {said}.")
    if code in _FULL or status == 507:
        return StoreFull(f"{store} has no room: {said}.")
    if code in _PASSING or status in _PASSING_STATUS:
        return StoreUnavailable(f"{store} does not answer as it should: {said}.")
    match status:
        case 404:
            return NotFound(key)
        case 412:
            return AlreadyExists(key)
        case 416:
            return RangeBeyondEnd(f"{key!r} ends before the range.")
        case 401 | 403:
            return StoreNotWritable(f"{store} refuses access to {key!r}: {said}.")
        case 501:
            return ConditionNotHonoured(f"{store} lacks something that is needed: {said}.")
        case _:
            return StoreError(f"{store} failed for {key!r}: {said}.")
