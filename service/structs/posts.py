"""Posts as clients send and receive them."""

from math import inf
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from service.structs.fields import MAX_ID, Content, Timestamp, Title


class PostCreate(Struct):
    """A post to write."""

    title: Annotated[Title, Meta(examples=["First post"])]
    content: Annotated[Content, Meta(examples=["Hello, world."])]


class PostUpdate(Struct):
    """The fields of a post to change; an absent one keeps its value."""

    title: Annotated[Title, Meta(examples=["Edited"])] | UnsetType = UNSET
    content: Annotated[Content, Meta(examples=["Hello again, world."])] | UnsetType = UNSET


class Post(Struct, frozen=True, gc=False):
    """A post as stored."""

    id: Annotated[int, Meta(examples=[1])]
    title: Annotated[str, Meta(examples=["First post"])]
    content: Annotated[str, Meta(examples=["Hello, world."])]
    user_id: Annotated[int, Meta(description="The id of the owner.", examples=[1])]
    date_posted: Annotated[Timestamp, Meta(examples=["2026-11-22T12:25:55.978298Z"])]


class StoredPost(Struct, frozen=True, gc=False):
    """A post, and its version, which clients see only in the entity tag."""

    post: Post
    version: int


class VersionCondition(Struct, frozen=True, gc=False):
    """The versions of which a post must have one, and those that it must not have, for a write to be applied."""

    required: frozenset[int] | None = None  # None: any
    excluded: frozenset[int] = frozenset()

    def allows(self, version: int) -> bool:
        return version not in self.excluded and (self.required is None or version in self.required)


ANY_VERSION: Final = VersionCondition()


Sort = Literal["id", "-id"]


class PostPage(Struct, frozen=True, gc=False):
    """One page of a list of posts, and the id after which the next one begins, unless it is the last."""

    posts: list[Post]
    digest: bytes  # of their ids and versions
    after: int | None


class SearchPosition(Struct, frozen=True, gc=False):
    """Where a page of search results begins: in a window of the matches, after a row with this rank and id.

    A window ends after ``oldest``, which belongs to the next one. It has not begun if ``rank`` is infinite, and
    ``method``, the way its matches are found, may be undecided until then.
    """

    method: Literal["undecided", "index", "scan"]
    newest: int
    oldest: int = 0
    rank: float = inf
    id: int = MAX_ID


class SearchPage(Struct, frozen=True, gc=False):
    """One page of search results, and where the next one begins, unless it is the last."""

    posts: list[Post]
    digest: bytes  # of their ids and versions
    after: SearchPosition | None
