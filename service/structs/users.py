"""Users as clients send and receive them."""

from typing import Annotated

from msgspec import Meta, Struct

from service.structs.fields import Email, Password, Username
from service.structs.posts import Post


class UserCreate(Struct):
    """An account to register."""

    username: Annotated[
        Username,
        Meta(
            description="Unique and case-sensitive. Without control and format characters, and without white space at "
            "either end. Stored in Unicode's normalisation form C.",
            examples=["maria"],
        ),
    ]
    email: Annotated[
        Email,
        Meta(
            description="Unique. Only its syntax is checked. Its domain is stored in lower case.",
            examples=["maria@example.com"],
        ),
    ]
    password: Annotated[
        Password,
        Meta(description="Compared in Unicode's normalisation form C.", examples=["correct horse battery"]),
    ]


class User(Struct, frozen=True, gc=False):
    """An account, without its secrets."""

    id: Annotated[int, Meta(examples=[1])]
    username: Annotated[str, Meta(examples=["maria"])]
    email: Annotated[str, Meta(examples=["maria@example.com"])]


class UserProfile(Struct, frozen=True):
    """A user with the first page of their posts."""

    id: Annotated[int, Meta(examples=[1])]
    username: Annotated[str, Meta(examples=["maria"])]
    email: Annotated[str, Meta(examples=["maria@example.com"])]
    posts: list[Post]
