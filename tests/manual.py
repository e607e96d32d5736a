"""A handler for each feature of Litestar's manual. Tests register them beside the routes of the service."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from litestar import Controller, MediaType, Request, Response
from litestar.background_tasks import BackgroundTask
from litestar.connection import ASGIConnection
from litestar.datastructures import CacheControlHeader, Cookie, Headers, State, UploadFile
from litestar.di import NamedDependency
from litestar.dto import DTOConfig, MsgspecDTO
from litestar.exceptions import HTTPException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.params import (
    CookieParameter,
    FromCookie,
    FromHeader,
    FromPath,
    FromQuery,
    HeaderParameter,
    JSONBody,
    MsgPackBody,
    MultipartBody,
    PathParameter,
    QueryParameter,
    QueryParams,
    RawBody,
    RequestCookies,
    URLEncodedBody,
)
from litestar.response import File, Redirect, Stream
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Meta, Struct

from service.errors import FaultyField
from service.http.responses import JSONResponse
from service.http.routes import delete, get, patch, post, put
from service.structs.fields import Email, PostId

Json = dict[str, Any]

# Entries of the background tasks and hooks below.
done: list[str] = []


class Item(Struct):
    name: Annotated[str, Meta(min_length=2)]
    amount: Annotated[int, Meta(ge=1, le=9)] = 1
    email: Email | None = None


class Settings(Struct):
    """A form with every kind of field."""

    name: Annotated[str, Meta(min_length=2)]
    amount: Annotated[int, Meta(ge=1, le=9)]
    ratio: float | None = None
    is_on: bool = False
    tags: list[str] = []
    sizes: list[int] = []
    mode: Literal["fast", "slow"] = "fast"
    size: Literal["small", "large"] | None = None


class Upload(Struct):
    title: Annotated[str, Meta(min_length=2)]
    amount: Annotated[int, Meta(ge=1)]
    file: UploadFile


@dataclass
class Point:
    x: int
    y: int


class Renamed(MsgspecDTO[Item]):
    config = DTOConfig(rename_strategy="camel", exclude={"email"})


async def paging(
    page: Annotated[int, QueryParameter(ge=1)],
    x_region: Annotated[str, HeaderParameter(name="X-Region", min_length=2)],
) -> str:
    return f"page {page} of {x_region}"


def require_one(_: object, texts: Mapping[str, Any]) -> list[FaultyField]:
    return [] if texts else [FaultyField("/name", "is required without an email")]


async def opened() -> AsyncIterator[str]:
    done.append("opened")
    yield "connection"
    done.append("closed")


async def remember(what: str) -> None:
    done.append(what)


async def answer_instead(request: Request[Any, Any, Any]) -> Json | None:
    return {"instead": True} if "instead" in request.query_params else None


async def add_header(response: Response[Any]) -> Response[Any]:
    response.set_header("X-After", "yes")
    response.set_cookie("after", "yes")
    return response


async def after_response(request: Request[Any, Any, Any]) -> None:
    done.append(f"after {request.url.path}")


async def refuse(_: ASGIConnection[Any, Any, Any, Any], __: BaseRouteHandler) -> None:
    raise PermissionDeniedException("Not today")


def teapot(_: Request[Any, Any, Any], error: Exception) -> Response[str]:
    return Response(str(error), status_code=418, media_type=MediaType.TEXT)


def stamp(app: ASGIApp) -> ASGIApp:
    """A middleware that adds the principal to every response, including errors."""

    async def stamped(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-stamp", str(scope.get("user")).encode())]
            await send(message)

        await app(scope, receive, send_stamped)

    return stamped


def peek(app: ASGIApp) -> ASGIApp:
    """A middleware that reads the body before the handler does."""

    async def peeking(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request[Any, Any, Any](scope, receive)
        done.append((await request.body()).decode())
        await app(scope, receive, send)

    return peeking


class Manual(Controller):
    path = "/manual"
    opt = {"public": True}  # noqa: RUF012 - as Litestar declares it
    tags = ("manual",)
    dependencies = {"paging": paging, "connection": opened}  # noqa: RUF012

    # Handlers that take the fast path.

    @get("/query")
    async def query(
        self,
        text: FromQuery[str],
        number: Annotated[int, QueryParameter(ge=1, le=100)] = 50,
        maybe: FromQuery[int | None] = None,
        either: FromQuery[int | str | None] = None,
        ratio: FromQuery[float | None] = None,
        is_on: FromQuery[bool] = False,  # noqa: FBT002 - a parameter of the query
        tags: Annotated[list[str] | None, QueryParameter(name="tag")] = None,
        numbers: FromQuery[list[int] | None] = None,
        mode: FromQuery[Literal["fast", "slow"]] = "fast",
    ) -> Json:
        given = (text, number, maybe, either, ratio, is_on, tags, numbers, mode)
        return {"given": given, "types": [type(one).__name__ for one in given]}

    @get("/defaults")
    async def defaults(
        self,
        maybe: FromQuery[int | None],
        declared: Annotated[int, QueryParameter(le=9)] = 5,
        pair: FromQuery[tuple[int, int]] = (1, 2),
        unique: FromQuery[set[str] | None] = None,
        size: FromQuery[float] = 0.5,
        day: FromQuery[date | None] = None,
        item_id: FromQuery[UUID | None] = None,
    ) -> Json:
        return {"given": (maybe, declared, pair, unique and sorted(unique), size, day, item_id)}

    @get("/nullable")
    async def nullable(
        self,
        text: FromQuery[str | None] = None,
        mode: FromQuery[Literal["fast", "slow"] | None] = None,
        is_on: FromQuery[bool | None] = None,
        day: FromQuery[date | None] = None,
        flags: FromQuery[list[bool | None] | None] = None,
        names: FromQuery[list[str] | None] = None,
    ) -> Json:
        return {"given": (text, mode, is_on, day, flags, names)}

    @get("/visitors")
    async def visitors(self) -> list[str]:
        done.append("visitor")
        return done

    @get("/json-visitors")
    async def json_visitors(self) -> JSONResponse[list[str]]:
        done.append("visitor")
        return JSONResponse(done)

    @get("/one-of-two", query_rule=require_one)
    async def one_of_two(self, name: FromQuery[str | None] = None, email: FromQuery[str | None] = None) -> Json:
        return {"given": (name, email)}

    @get("/headers")
    async def headers(
        self,
        x_version: Annotated[int, HeaderParameter(name="X-Version", ge=1)],
        agent: FromHeader[str] = "none",
        session: Annotated[str | None, CookieParameter(name="session-id", min_length=3)] = None,
        theme: FromCookie[str] = "light",
    ) -> Json:
        return {"given": (x_version, agent, session, theme)}

    @post("/json")
    async def json(self, data: JSONBody[Item], factor: FromQuery[int]) -> Json:
        return {"name": data.name, "amount": data.amount * factor, "email": data.email}

    @put("/form")
    async def form(self, data: URLEncodedBody[Settings]) -> Settings:
        return data

    @post("/peeked", middleware=[peek])
    async def peeked(self, data: JSONBody[Item]) -> Json:
        return {"name": data.name}

    @get("/html")
    async def html(self) -> Response[str]:
        return Response("<p>Grüße</p>", media_type="text/html")

    @get("/declared-html", media_type=MediaType.HTML)
    async def declared_html(self) -> Response[str]:
        return Response("<p>Grüße</p>")

    @get("/cookie")
    async def cookie(self) -> Response[Json]:
        response = Response({"set": True}, background=BackgroundTask(remember, "background of a response"))
        response.set_cookie("flavour", "oat", httponly=True)
        return response

    @get("/json-cookie")
    async def json_cookie(self) -> JSONResponse[Json]:
        response = JSONResponse({"set": True}, background=BackgroundTask(remember, "background of JSON"))
        response.set_cookie("flavour", "oat")
        response.set_header("X-Set", "yes")
        return response

    @get("/nothing", status_code=204)
    async def nothing(self) -> None: ...

    @get("/deleted", status_code=204)
    async def deleted(self) -> JSONResponse[None]:
        return JSONResponse(None)

    @get("/not-modified-cookie")
    async def not_modified_cookie(self) -> JSONResponse[Json]:
        response = JSONResponse({"left": "out"}, status_code=304, headers={"ETag": '"1"'})
        response.set_cookie("flavour", "oat")
        return response

    @get("/not-modified")
    async def not_modified(self) -> JSONResponse[Json]:
        return JSONResponse({"left": "out"}, status_code=304, headers={"ETag": '"1"'})

    @get("/cached-head", cache_control=CacheControlHeader(max_age=60), response_headers={"X-Fixed": "yes"})
    async def fixed_headers(self) -> Json:
        return {}

    @get("/stream")
    async def stream(self) -> Stream:
        return Stream(iter(["a", "b"]), media_type=MediaType.TEXT)

    @get("/file")
    async def file(self) -> File:
        return File(Path(__file__), media_type="text/x-python")

    @get("/redirect")
    async def redirect(self) -> Redirect:
        return Redirect("/manual/html")

    @get("/guarded", guards=[refuse])
    async def guarded(self) -> Json:
        return {}

    @get("/handled", exception_handlers={LookupError: teapot})
    async def handled(self) -> Json:
        raise KeyError("pot")

    @get("/unavailable")
    async def unavailable(self) -> Json:
        raise HTTPException("Come back later", status_code=503, headers={"Retry-After": "9"})

    @get("/stamped", middleware=[stamp])
    async def stamped(self, fail: FromQuery[bool] = False) -> Json:  # noqa: FBT002
        if fail:
            raise LookupError
        return {}

    @get("/stamped-and-private", middleware=[stamp], public=False)
    async def stamped_and_private(self) -> Json:
        return {}

    # Handlers that take Litestar's own way.

    @get("/dependencies")
    async def depend(
        self, paging: NamedDependency[str], connection: NamedDependency[str], size: Annotated[int, QueryParameter(le=9)]
    ) -> Json:
        done.append("handled")
        return {"given": (paging, connection, size)}

    @get("/reserved")
    async def reserved(
        self, headers: Headers, cookies: RequestCookies, query: QueryParams, scope: Scope, state: State
    ) -> Json:
        return {
            "given": (headers["x-version"], cookies["theme"], query["a"], scope["type"], state["settings"].port),
        }

    @post("/raw")
    async def raw(self, body: RawBody) -> Json:
        return {"size": len(body)}

    @post("/items")
    async def items(self, data: JSONBody[list[Item]]) -> Json:
        return {"names": [item.name for item in data]}

    @post("/point")
    async def point(self, data: JSONBody[Point]) -> Point:
        return data

    @post("/optional")
    async def optional(self, data: JSONBody[Item | None] = None) -> Json:
        return {"name": data and data.name}

    @post("/renamed", dto=Renamed)
    async def renamed(self, data: JSONBody[Item]) -> Item:
        return data

    @post("/msgpack")
    async def msgpack(self, data: MsgPackBody[Item]) -> Json:
        return {"name": data.name}

    @post("/upload")
    async def upload(self, data: MultipartBody[Upload]) -> Json:
        return {"title": data.title, "amount": data.amount, "text": (await data.file.read()).decode()}

    @post("/files")
    async def files(self, data: MultipartBody[list[UploadFile]]) -> Json:
        return {"names": [file.filename for file in data]}

    @post("/large", request_max_body_size=3 * 1024 * 1024)
    async def large(self, body: RawBody) -> Json:
        return {"size": len(body)}

    @post("/large-json", request_max_body_size=100)
    async def small(self, data: JSONBody[Item]) -> Json:
        return {"name": data.name}

    @post("/from-request")
    async def from_request(self, request: Request[Any, Any, Any]) -> Json:
        return {"json": await request.json()}

    @get("/before", before_request=answer_instead)
    async def before(self) -> Json:
        return {"instead": False}

    @get("/after", after_request=add_header, after_response=after_response)
    async def after(self) -> JSONResponse[Json]:
        return JSONResponse({"a": 1})

    @get("/background", background=BackgroundTask(remember, "background of a handler"))
    async def background(self) -> Json:
        return {}

    @get("/cookies", response_cookies=[Cookie(key="flavour", value="rye")])
    async def cookies(self) -> Json:
        return {}

    @get("/cached", cache=60)
    async def cached(self) -> Json:
        done.append("computed")
        return {"computed": len(done)}

    @get("/cached-json", cache=60)
    async def cached_json(self) -> JSONResponse[Json]:
        return JSONResponse({"cached": True})

    @get("/sync", sync_to_thread=False)
    def sync(self, number: FromQuery[int]) -> Json:
        return {"number": number}

    @post("/sync-json", sync_to_thread=False)
    def sync_json(self, data: JSONBody[Item]) -> Json:
        return {"name": data.name}

    @put("/sync-form", sync_to_thread=True)
    def sync_form(self, data: URLEncodedBody[Settings]) -> Json:
        return {"name": data.name}

    @post("/streamed")
    async def streamed(self, request: Request[Any, Any, Any]) -> Json:
        sizes = [len(piece) async for piece in request.stream()]
        return {"size": sum(sizes)}

    @post("/streamed-twice")
    async def streamed_twice(self, request: Request[Any, Any, Any]) -> Json:
        return {"sizes": [len(piece) for _ in range(2) async for piece in request.stream()]}

    @get("/text")
    async def text(self) -> str:
        return "plain"

    @get("/encoded", type_encoders={complex: str})
    async def encoded(self) -> Json:
        return {"number": 1j}

    @get("/number/{number:int}")
    async def number(self, number: Annotated[int, PathParameter(ge=1)]) -> Json:
        return {"number": number}

    @get("/id/{post_id:str}", sync_to_thread=False)
    def id(self, post_id: FromPath[PostId]) -> Json:
        return {"id": int(post_id), "type": type(post_id).__name__}

    @get(["/paths", "/paths/{name:str}"])
    async def paths(self, name: FromPath[str | None] = None) -> Json:
        return {"name": name}

    @patch("/mixed", sync_to_thread=False)
    def mixed(
        self,
        data: JSONBody[Item],
        factor: FromQuery[int],
        x_version: Annotated[int, HeaderParameter(name="X-Version")],
    ) -> Json:
        return {"amount": data.amount * factor * x_version}

    @delete("/teapot", sync_to_thread=False, exception_handlers={LookupError: teapot})
    def teapot(self) -> None:
        raise KeyError("pot")
