"""FastAPI, SQLAlchemy's async ORM and pydantic: the service that this one replaces."""

import os
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Annotated, Final

import jwt
from fastapi import Depends, FastAPI, HTTPException, Query, Response, status
from fastapi.security import OAuth2PasswordBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import BigInteger, DateTime, ForeignKey, Identity, func, select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, selectinload

SECRET_KEY: Final = os.environ["SECRET_KEY"]
DATABASE_URL: Final = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)

engine = create_async_engine(DATABASE_URL, pool_size=10, max_overflow=0)
new_session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    username: Mapped[str]
    email: Mapped[str]
    password_hash: Mapped[str]
    posts: Mapped[list["Post"]] = relationship(back_populates="owner", order_by="Post.id")


class Post(Base):
    __tablename__ = "posts"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    title: Mapped[str]
    content: Mapped[str]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    date_posted: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    owner: Mapped[User] = relationship(back_populates="posts")


class Message(BaseModel):
    message: str


class PostCreate(BaseModel):
    title: str = Field(min_length=1, max_length=100)
    content: str = Field(min_length=1)


class PostUpdate(BaseModel):
    title: str | None = Field(default=None, min_length=1, max_length=100)
    content: str | None = Field(default=None, min_length=1)


class PostOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    content: str
    user_id: int
    date_posted: datetime


class UserOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    email: str


class ProfileOut(UserOut):
    posts: list[PostOut]


async def get_session() -> AsyncIterator[AsyncSession]:
    async with new_session() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]


class UserRepository:
    def __init__(self, session: Session) -> None:
        self.session = session

    async def get(self, user_id: int) -> User | None:
        return await self.session.get(User, user_id)

    async def get_with_posts(self, user_id: int) -> User | None:
        return await self.session.scalar(select(User).where(User.id == user_id).options(selectinload(User.posts)))


class PostRepository:
    def __init__(self, session: Session) -> None:
        self.session = session

    async def get(self, post_id: int) -> Post | None:
        return await self.session.get(Post, post_id)

    async def list(self, after: int, limit: int) -> Sequence[Post]:
        return (await self.session.scalars(select(Post).where(Post.id > after).order_by(Post.id).limit(limit))).all()

    async def add(self, post: Post) -> Post:
        self.session.add(post)
        await self.session.commit()
        return post

    async def save(self, post: Post) -> Post:
        await self.session.commit()
        return post


Users = Annotated[UserRepository, Depends()]
Posts = Annotated[PostRepository, Depends()]

oauth2_scheme = OAuth2PasswordBearer(tokenUrl="/auth/token")


async def get_current_user(token: Annotated[str, Depends(oauth2_scheme)], users: Users) -> User:
    refused = HTTPException(401, "Could not validate credentials", {"WWW-Authenticate": "Bearer"})
    try:
        claims = jwt.decode(token, SECRET_KEY, algorithms=["HS256"], issuer="accounts-and-posts")
    except jwt.InvalidTokenError:
        raise refused from None
    if (user := await users.get(int(claims["sub"]))) is None:
        raise refused
    return user


CurrentUser = Annotated[User, Depends(get_current_user)]

app = FastAPI()


@app.get("/")
async def greet() -> Message:
    return Message(message="Accounts and posts. The API page is at docs, relative to this address.")


@app.get("/users/me", response_model=UserOut)
async def read_own_account(user: CurrentUser) -> User:
    return user


@app.get("/users/{user_id}", response_model=ProfileOut)
async def read_user(user_id: int, users: Users) -> User:
    if (user := await users.get_with_posts(user_id)) is None:
        raise HTTPException(404, "User not found")
    return user


@app.get("/posts", response_model=list[PostOut])
async def list_posts(
    posts: Posts,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    after: Annotated[int, Query(ge=0)] = 0,
) -> Sequence[Post]:
    return await posts.list(after, limit)


@app.post("/posts", response_model=PostOut, status_code=status.HTTP_201_CREATED)
async def create_post(data: PostCreate, user: CurrentUser, posts: Posts, response: Response) -> Post:
    post = await posts.add(Post(title=data.title, content=data.content, user_id=user.id))
    response.headers["Location"] = f"/posts/{post.id}"
    return post


@app.get("/posts/{post_id}", response_model=PostOut)
async def read_post(post_id: int, posts: Posts) -> Post:
    if (post := await posts.get(post_id)) is None:
        raise HTTPException(404, "Post not found")
    return post


@app.patch("/posts/{post_id}", response_model=PostOut)
async def update_post(post_id: int, data: PostUpdate, user: CurrentUser, posts: Posts) -> Post:
    if (post := await posts.get(post_id)) is None:
        raise HTTPException(404, "Post not found")
    if post.user_id != user.id:
        raise HTTPException(403, "Only the owner can update this post")
    for field, value in data.model_dump(exclude_unset=True).items():
        setattr(post, field, value)
    return await posts.save(post)
