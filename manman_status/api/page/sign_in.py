"""Signing in and out: the token becomes a cookie that no script can read and no other site can use.

Neither changes anything but the caller's cookie, so no request of another site needs to be
distinguished apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.params import URLEncodedBody
from litestar.response import Redirect, Template

from manman_status.api.errors import TooManySignIns
from manman_status.api.tokens import SignInLimit, Tokens

if TYPE_CHECKING:
    from litestar.types import Scope

SIGN_IN, SIGN_OUT = "/sign-in", "/sign-out"
COOKIE = "manman-status-token"
KEPT_SECONDS = 7 * 24 * 3600
LONGEST_FORM_BYTES = 16_384


class Form(msgspec.Struct):
    token: str = ""
    to: str = "/"


def is_signed_in(scope: Scope, tokens: Tokens) -> bool:
    """True if a cookie stands for one of the tokens."""
    cookies = (
        pair for name, value in scope["headers"] if name == b"cookie" for pair in value.split(b";")
    )
    given = (
        value
        for name, _, value in (pair.strip().partition(b"=") for pair in cookies)
        if name == COOKIE.encode()
    )
    return any(tokens.accept_cookie(value) for value in given)


@get(SIGN_IN)
async def sign_in(
    request: Request[Any, Any, Any], tokens: NamedDependency[Tokens]
) -> Redirect | Template:
    """Show the form, or go on where no sign-in is needed."""
    to = request.query_params.get("to", "/")
    if not tokens.are_needed or is_signed_in(request.scope, tokens):
        return Redirect(_own_path(to), status_code=303)
    return _form(to)


@post(SIGN_IN, request_max_body_size=LONGEST_FORM_BYTES)
async def try_token(
    request: Request[Any, Any, Any],
    data: URLEncodedBody[Form],
    tokens: NamedDependency[Tokens],
    sign_in_limit: NamedDependency[SignInLimit],
) -> Redirect | Template:
    """Raises TooManySignIns."""
    token = data.token.encode()
    address = request.client.host if request.client else ""
    if not sign_in_limit.allows(address):
        raise TooManySignIns
    if not tokens.accept(token):
        sign_in_limit.failed(address)
        return _form(data.to, failed=True)
    cookie = _cookie(request, tokens.cookie(token, seconds=KEPT_SECONDS), KEPT_SECONDS)
    return Redirect(_own_path(data.to), status_code=303, cookies=[cookie])


@post(SIGN_OUT)
async def sign_out(request: Request[Any, Any, Any]) -> Redirect:
    return Redirect(SIGN_IN, status_code=303, cookies=[_cookie(request, "", 0)])


def _form(to: str, *, failed: bool = False) -> Template:
    context = {"bar": None, "to": _own_path(to), "failed": failed}
    return Template("sign_in.html", context=context, status_code=403 if failed else 200)


def _cookie(request: Request[Any, Any, Any], value: str, max_age: int) -> Cookie:
    # A proxy that ends TLS in front of us says so.
    is_secure = "https" in {request.scope["scheme"], request.headers.get("x-forwarded-proto", "")}
    return Cookie(
        COOKIE, value=value, max_age=max_age, httponly=True, samesite="strict", secure=is_secure
    )


def _own_path(to: str) -> str:
    """`to` where it leads to a page of ours, else the first: whoever made the link must not choose
    another site."""
    is_own = to.startswith("/") and not to.startswith(("//", "/\\")) and to.isprintable()
    return to if is_own else "/"
