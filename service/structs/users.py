"""Users as clients send and receive them."""

from typing import Annotated

from msgspec import Meta, Struct

from service.structs.fields import Email, Password, Username
from service.structs.posts import Post


class UserCreate(Struct):
    """An account to register."""

    username: Username
    email: Annotated[
        Email,
        Meta(
            description="Valid by syntax; its domain is stored in lower case.",
            examples=["alice@example.com"],
        ),
    ]
    password: Password


class User(Struct, frozen=True, gc=False):
    """An account, without its secrets."""

    id: Annotated[int, Meta(examples=[1])]
    username: Annotated[str, Meta(examples=["alice"])]
    email: Annotated[str, Meta(examples=["alice@example.com"])]


class UserProfile(Struct, frozen=True):
    """A user with the first page of their posts."""

    id: Annotated[int, Meta(examples=[1])]
    username: Annotated[str, Meta(examples=["alice"])]
    email: Annotated[str, Meta(examples=["alice@example.com"])]
    posts: list[Post]
