"""docs/s3.md shows what the code asks for."""

import json
import re

from gateway.diagnostics.s3 import SETUP_ACTIONS, least_policy
from tests.project.repository import text

DOCUMENT = text("docs/s3.md")


def test_the_policy_in_the_document_is_that_of_the_code() -> None:
    """Who copies the policy can deliver and check, and may do nothing else."""
    (shown,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    assert json.loads(shown) == least_policy("your-bucket", "callspool/", check=True)


def test_the_document_names_what_the_setup_needs() -> None:
    """Every permission of the setup stands in the document."""
    assert not [action for action in SETUP_ACTIONS if action not in DOCUMENT]
