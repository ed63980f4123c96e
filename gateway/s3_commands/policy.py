"""What callspool needs to be allowed at a bucket: the least policy, as data."""

from typing import TypedDict


class Statement(TypedDict):
    """One statement of an IAM policy."""

    Sid: str
    Effect: str
    Action: list[str]
    Resource: str


class Policy(TypedDict):
    """An IAM policy document."""

    Version: str
    Statement: list[Statement]


OBJECT_ACTIONS = (
    "s3:PutObject",
    "s3:GetObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)
"""Send objects, whole and in parts; look at what arrived; go on with an upload, or give it up."""
BUCKET_ACTIONS = ("s3:ListBucket", "s3:ListBucketMultipartUploads")
"""Tell an object that is not there from one that may not be looked at; find uploads that nobody will complete."""
CHECK_ACTIONS = ("s3:DeleteObject",)
"""Remove the object of `callspool s3 check`; delivering never deletes."""
SETUP_ACTIONS = (
    "s3:GetLifecycleConfiguration",
    "s3:PutLifecycleConfiguration",
    "s3:GetEncryptionConfiguration",
    "s3:PutEncryptionConfiguration",
    "s3:PutBucketPublicAccessBlock",
)
"""`callspool s3 setup --apply`, once, with an operator's own credentials."""


def least_policy(bucket: str, folder: str, *, check: bool = False, setup: bool = False) -> Policy:
    """What delivering to `folder` of the bucket needs, with what `check` and `setup` need besides.

    With a KMS key, its own policy must allow kms:GenerateDataKey and kms:Decrypt in addition.
    """
    on_objects = [*OBJECT_ACTIONS, *(CHECK_ACTIONS if check else ())]
    on_bucket = [*BUCKET_ACTIONS, *(SETUP_ACTIONS if setup else ())]
    return Policy(
        Version="2012-10-17",
        Statement=[
            Statement(
                Sid="CallspoolObjects", Effect="Allow", Action=on_objects, Resource=f"arn:aws:s3:::{bucket}/{folder}*"
            ),
            Statement(Sid="CallspoolBucket", Effect="Allow", Action=on_bucket, Resource=f"arn:aws:s3:::{bucket}"),
        ],
    )
