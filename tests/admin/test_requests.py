"""What the admin listener cannot read, it refuses in the shape of all errors: bodies, forms, query parameters."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pytest_aiohttp import AiohttpClient

from gateway.operations.erasure import CallEraser
from gateway.operations.schemas import IMPORT_TYPE
from gateway.operations.tenants import TenantAdmin
from gateway.tenants import Tenant, TenantTable
from tests.admin.admin_app import AUTHORIZED, AdminFigures, Client, SpoolAdmin, spool_admin

ORDERS = ("orders/replay", "orders/discard", "salvage", "erasures", "tenants/assign")
UNREADABLE = {
    "nested": b"[" * 60_000,
    "nested in a field": b'{"select": {"keys": ' + b"[" * 60_000,
    "not UTF-8": b'{"select": {"target": "\xff"}, "directory": "\xff", "call_ids": ["\xff"], "tenant": "\xff"}',
    "a key that is not UTF-8": b'{"\xff": 1}',
    "a lone surrogate": b'{"\\udc00": 1}',
    "NaN": b'{"select": {"older_than": NaN}}',
    "a huge number": b'{"select": {"older_than": 1e999}}',
    "a list": b"[]",
    "null": b"null",
    "nothing": b"",
}


@pytest.fixture
async def client(tmp_path: Path, aiohttp_client: AiohttpClient) -> AsyncIterator[Client]:
    async with spool_admin(tmp_path, SpoolAdmin) as admin:
        eraser = CallEraser(
            admin.spool, admin.dispatcher, {}, {}, None, (), (), None, lambda principal, _agent, _key: principal, None
        )
        tenants = TenantAdmin(admin.spool, TenantTable([Tenant("acme", ("acme-*",))]))
        world = AdminFigures(
            spool=admin.spool, delivery_admin=admin.delivery_admin, tenant_admin=tenants, call_eraser=eraser
        )
        await admin.buried("a")
        yield await aiohttp_client(world.app, headers=AUTHORIZED)


async def error_of(client: Client, method: str, path: str, status: int, **request: object) -> dict[str, str]:
    """The error that a request is answered with."""
    answer = await client.request(method, path, **request)  # type: ignore[arg-type]  # as given
    assert answer.status == status, await answer.text()
    error: dict[str, str] = (await answer.json())["error"]
    return error


@pytest.mark.parametrize("path", ORDERS)
async def test_an_order_that_is_too_long_is_refused(client: Client, path: str) -> None:
    """Whatever it orders, the answer says what the limit is, and what to do."""
    error = await error_of(client, "POST", f"/api/{path}", 413, json={"call_ids": ["x" * 70_000]})
    assert (error["code"], "65,536" in error["message"], bool(error["hint"])) == ("too_large", True, True)


@pytest.mark.parametrize("path", ORDERS)
@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
async def test_an_order_that_cannot_be_read_is_refused(client: Client, path: str, body: bytes) -> None:
    """It is the sender's fault, and never an error of the gateway."""
    headers = {"Content-Type": "application/json"}
    error = await error_of(client, "POST", f"/api/{path}", 400, data=body, headers=headers)
    assert error["code"] == "bad_request"


async def test_an_import_that_is_not_utf8_is_refused(client: Client) -> None:
    """Like any other order."""
    headers = {"Content-Type": IMPORT_TYPE}
    path = "/api/dead-letters/import"
    assert "UTF-8" in (await error_of(client, "POST", path, 400, data=b'{"\xff": 1}\n', headers=headers))["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/api/nothing", 404, "no_such_route"), ("DELETE", "/api/deliveries", 405, "wrong_method")],
)
async def test_what_is_not_there_is_answered_as_all_errors_are(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    """With the code that the intake has for the same, and where the routes are listed."""
    error = await error_of(client, method, path, status)
    assert (error["code"], "/openapi.json" in error["hint"]) == (code, True)
    answer = await client.request(method, path)
    assert answer.headers.get("Allow") == ("GET,HEAD" if status == 405 else None)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded; charset=nonsense", b"token=x"),
        ("application/x-www-form-urlencoded", b"token=\xff"),
        ("application/x-www-form-urlencoded; charset=unicode_escape", b"token=\\ud800"),
        ("multipart/form-data", b"no boundary"),
        ("multipart/form-data; boundary=x", b"no part"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="token"\r\n\r\n\xff\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="to"\r\nContent-Transfer-Encoding: x\r\n\r\na\r\n--x--\r\n',
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n",
        ),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\na\r\n--x--\r\n"),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(client: Client, content_type: str, body: bytes) -> None:
    """Signing in is open to everybody: nothing that is posted there is an error of the gateway."""
    error = await error_of(client, "POST", "/sign-in", 400, data=body, headers={"Content-Type": content_type})
    assert error["code"] == "bad_request"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("deliveries?state=lost", "there is no state 'lost': say ready"),
        ("deliveries?form=half", "there is no form 'half'"),
        ("deliveries?kind=odd", "there is no kind of reasons 'odd'"),
        ("deliveries?detination=endpoint", "unknown parameter 'detination'"),
        ("deliveries?key=1/core/endpoint", "unknown parameter 'key'"),
        ("deliveries?older_than=nan", "is no span of time"),
        ("deliveries?cursor=x", "the cursor 'x' is not one"),
        ("deliveries?limit=x", "limit should be a number from 1 to 500"),
        ("deliveries?limit=0", "limit should be a number from 1 to 500"),
        ("deliveries?limit=-1", "limit should be a number from 1 to 500"),
        ("deliveries?limit=501", "limit should be a number from 1 to 500"),
        (f"deliveries?limit={'9' * 5000}", "limit should be a number from 1 to 500"),
        ("dead-letters/export?detination=endpoint", "unknown parameter 'detination'"),
        ("dead-letters/export?state=held", "unknown parameter 'state'"),
        ("traces?limit=0", "Invalid request"),
        ("traces?after=x", "Invalid request"),
    ],
)
async def test_a_parameter_that_cannot_be_meant_is_refused(client: Client, path: str, said: str) -> None:
    """A filter with a typo would select everything, one with a wrong word nothing: both are named."""
    assert said in (await error_of(client, "GET", f"/api/{path}", 400))["message"]
