"""Users as clients send and receive them."""

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

from service.structs.fields import Email, LoginPassword, Password, Timestamp, Username
from service.structs.posts import Post
from service.structs.sessions import Session


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


CurrentPassword = Annotated[
    LoginPassword, Meta(description="The password of the account.", examples=["correct horse battery"])
]


class AccountUpdate(Struct):
    """The fields of the own account to change; an absent one keeps its value."""

    current_password: CurrentPassword
    username: Annotated[Username, Meta(examples=["maria"])] | UnsetType = UNSET
    email: Annotated[Email, Meta(examples=["maria@example.com"])] | UnsetType = UNSET


class PasswordChange(Struct):
    """A new password for the own account."""

    current_password: CurrentPassword
    new_password: Annotated[Password, Meta(examples=["a better password"])]


class AccountDeletion(Struct):
    """The confirmation that deletes the own account."""

    # On the API page the password has been changed before.
    current_password: Annotated[
        LoginPassword, Meta(description="The password of the account.", examples=["a better password"])
    ]


class KnownAddress(Struct, frozen=True, gc=False):
    """An address that the user has logged in from."""

    address: Annotated[str, Meta(examples=["203.0.113.7"])]
    last_login_at: Annotated[Timestamp, Meta(examples=["2026-11-22T12:25:55.978298Z"])]


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


class Export(Struct, frozen=True, gc=False):
    """Everything that is stored about a user. It is not built: its JSON is sent a page of posts at a time."""

    account: User
    sessions: list[Session]
    known_addresses: list[KnownAddress]
    posts: list[Post]
